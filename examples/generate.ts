/** Generates images with the best adapter of a run, and without it: `generate RUN [prompt]`. */
import { generate, loadRun, writePng } from "alignprop";

const [folder = "runs/default-1", prompt = "fox"] = process.argv.slice(2);

// For a LoRA file that is not in a run folder, use `loadSettings` and `loadAdapter`.
const { settings, adapter } = await loadRun(folder);
const images = [7, 8, 9].map((seed) => ({ prompt, seed }));

const before = await generate({ ...settings, images });
const after = await generate({ ...settings, images, adapter });

for (const [i, { seed }] of images.entries()) {
  await writePng(`generated/seed-${seed}-before.png`, before[i]);
  await writePng(`generated/seed-${seed}-after.png`, after[i]);
}
console.log(`wrote ${before.length + after.length} images to generated/`);
