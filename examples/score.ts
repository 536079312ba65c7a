/** Scores image files, or folders of them, with a built-in reward and with one of your own: `score PATH...`. */
import { defineReward, findImages, loadSettings, ops, score } from "alignprop";

const brightness = defineReward({ name: "brightness", build: (images) => ops.mean(images, [1, 2, 3]) });

// A folder may have an index.json with the prompts, as the command `alignprop generate` writes it.
const images = await findImages(process.argv.slice(2));
const settings = await loadSettings({ recipe: "compressibility" });

const compressible = await score(images, settings);
const bright = await score(images, settings, { reward: brightness });

for (const [i, { file }] of images.entries()) {
  console.log(`${file}: compressibility ${compressible.rewards[i]}, brightness ${bright.rewards[i]}`);
}
console.log(`mean: compressibility ${compressible.mean}, brightness ${bright.mean}`);
