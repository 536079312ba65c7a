/** Mutated preprocessor files of rewards and mutated recipes are read correctly or refused. */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { loadSettings } from "../../src/config/load.js";
import { parseJson } from "../../src/io/json.js";
import { input } from "../../src/ops/index.js";
import {
  parsePreprocessor,
  preprocess,
  preprocessingSchema,
  resolvePreprocessing,
} from "../../src/rewards/user/onnx-preprocessing.js";
import { fuzz, LIMIT, scratchFolder } from "./fuzz.js";
import { mutateBytes, mutateJson } from "./mutate.js";

const folder = scratchFolder();
afterAll(() => rmSync(folder, { recursive: true }));

test("preprocessor files", LIMIT, async () => {
  const valid = {
    do_resize: true,
    size: { shortest_edge: 40, longest_edge: 60 },
    crop_size: { height: 32, width: 32 },
    do_center_crop: true,
    resample: 3,
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: [0.5, 0.4, 0.3],
    image_std: [0.2, 0.3, 0.4],
  };
  const settings = preprocessingSchema.parse({});
  const images = input([1, 3, 48, 50]);
  await fuzz(
    4_4,
    (rng) => mutateJson(valid, rng),
    (json) => {
      const file = parsePreprocessor(parseJson(json, "preprocessor_config.json"), "preprocessor_config.json");
      const spec = resolvePreprocessing(
        settings,
        file,
        { name: "x", dtype: "float32", shape: ["n", 3, "h", "w"] },
        "test",
      );
      // Sides of up to 8192 pixels are valid, but slow.
      if ([...(spec.size ?? []), spec.shortestEdge?.edge ?? 0].some((side) => side > 512)) return;
      const pixels = preprocess(images, spec, "test");
      expect(pixels.shape.every((extent) => extent >= 1)).toBe(true);
    },
  );
});

test("recipes", LIMIT, async () => {
  const recipe = `
# a run
name: mine
reward:
  name: onnx
  file: model.onnx
  class: 3
  score: softmax
  inputs: { mask: 1, ids: [1, 2, 3] }
  preprocessing: { size: [24, 24], mean: [0.5, 0.5, 0.5], range: [-1, 1], resize: bicubic }
loss: &loss { form: maximize, scale: 0.01 }
sampling: { steps: 4, guidance_scale: 1.5 }
batch: { samples_per_epoch: 4, total: 4, per_device: 2 }
prompts: { train: [fox, "wolf"], eval: [bear], template: "a {}" }
train: { steps: 3 }
`;
  const fragments = [
    "*loss",
    "&a ",
    "!!js ",
    "? ",
    "- ",
    ": ",
    "{",
    "[",
    "'",
    '"',
    "|\n",
    "<<: ",
    "1e999",
    ".nan",
    "~",
    "\t",
    "\0",
    "# ",
    "---\n",
    "[".repeat(500),
    "0x7f",
    "../x",
    "name: clip\n",
    "2026-01-01",
  ];
  const file = join(folder, "recipe.yaml");
  await fuzz(
    4_5,
    (rng) => mutateBytes(Buffer.from(recipe), rng, fragments),
    async (text) => {
      writeFileSync(file, text);
      const settings = await loadSettings({ recipe: file });
      const { steps } = settings.sampling;
      expect(Number.isInteger(steps) && steps >= 1 && settings.train.steps >= 1).toBe(true);
    },
  );
});
