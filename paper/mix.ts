/** Mixes the adapters of two runs with several coefficients, and scores the images of each mix with both rewards. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import sharp from "sharp";
import { z } from "zod";
import type { Terminal } from "../src/cli/terminal.js";
import { HELD_OUT_ANIMALS, loadSettings } from "../src/config/index.js";
import type { RgbImage } from "../src/images/rgb.js";
import { writeFileAtomic } from "../src/io/atomic.js";
import { exists } from "../src/io/files.js";
import { readJson } from "../src/io/json.js";
import { generateEach, mixAdapters } from "../src/pipeline/index.js";
import { checkpointFolder, openAdapter } from "../src/runs/record/index.js";
import { mixStrip } from "../src/runs/report/index.js";
import { meanAndStd, score } from "../src/scoring/index.js";
import { folderOf, readTuning } from "./comparison.js";
import { METHODS, type Method, overridesOf, settingsOf } from "./methods.js";

const REWARDS = ["aesthetic", "compressibility"] as const;
const COEFFICIENTS = [1, 0.75, 0.5, 0.25, 0];
/** Images per prompt. */
const IMAGES = 4;
const SEED = 1000;
/** Checkpoints whose images still show animals. Later images of the compressibility run are empty. */
const SOURCES = [
  { name: "uniform", step: 16 },
  { name: "compressibility", step: 8 },
];
/** Rows of the strip, as many as fit on a page. */
const ROWS = 4;

const mix = z.object({ coefficient: z.number(), aesthetic: z.number(), compressibility: z.number() });
export type Mix = z.output<typeof mix>;
const MIX_FILE = "mix.json";
const STRIP = "images/paper-mixing.webp";

export async function readMix(out: string): Promise<Mix[]> {
  const path = join(out, MIX_FILE);
  return (await exists(path)) ? await readJson(path, z.array(mix)) : [];
}

/** Writes the scores and the strip of images, once both runs have the checkpoints. */
export async function makeMix(out: string, docs: string, threads: number | null, terminal: Terminal): Promise<void> {
  if ((await exists(join(out, MIX_FILE))) && (await exists(join(docs, STRIP)))) return;
  const folders = [];
  for (const { name, step } of SOURCES) {
    const method = METHODS.find((each) => each.name === name) as Method;
    const rate = (await readTuning(out, method, threads)).chosen;
    const run = rate === undefined ? undefined : folderOf(out, { method, rate, seed: method.seeds[0] as number });
    if (run === undefined || !(await exists(checkpointFolder(run, step)))) {
      terminal.say(`the mix of two rewards needs step ${step} of the run ${name}, which is not there yet`);
      return;
    }
    folders.push(checkpointFolder(run, step));
  }
  const [first, second] = await Promise.all(folders.map((folder) => openAdapter(folder, "mix blends adapters")));
  if (!first || !second) return;
  const settings = await settingsOf({ method: METHODS[0] as Method, rate: 1, seed: 0 });
  const requests = HELD_OUT_ANIMALS.flatMap((prompt, i) =>
    Array.from({ length: IMAGES }, (_, j) => ({ prompt, seed: SEED + i * IMAGES + j })),
  );
  const adapters = COEFFICIENTS.map((x) => mixAdapters(first, second, x));
  const { model, loading, device, precision, sampling } = settings;
  const generated = await generateEach(
    { model, loading, device, precision, sampling, threads, images: requests, batchSize: 8 },
    adapters,
  );
  const mixes: Mix[] = [];
  for (const [i, coefficient] of COEFFICIENTS.entries()) {
    const scores = { coefficient, aesthetic: 0, compressibility: 0 };
    const images = (generated[i] as RgbImage[]).map((image, n) => ({
      name: `image ${n}`,
      prompt: requests[n]?.prompt,
      read: async () => image,
    }));
    for (const reward of REWARDS) {
      const recipe = await loadSettings({
        recipe: reward === "aesthetic" ? "default" : reward,
        overrides: overridesOf({ threads }),
      });
      scores[reward] = meanAndStd((await score(images, recipe)).rewards).mean;
    }
    mixes.push(scores);
  }
  const rows = HELD_OUT_ANIMALS.slice(0, ROWS);
  const columns = generated.map((images) => rows.map((_, i) => images[i * IMAGES] as RgbImage));
  await mkdir(join(docs, "images"), { recursive: true });
  await writeFile(
    join(docs, STRIP),
    await sharp(await mixStrip(rows, COEFFICIENTS, columns))
      .webp({ lossless: true })
      .toBuffer(),
  );
  await writeFileAtomic(join(out, MIX_FILE), `${JSON.stringify(mixes, null, 2)}\n`);
}
