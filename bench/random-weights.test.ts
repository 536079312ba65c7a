import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, test } from "vitest";
import { parseUnetConfig } from "../src/models/unet/config.js";
import { unet, unetInputs } from "../src/models/unet/unet.js";
import { linear } from "../src/nn/layers.js";
import { type Scope, survey } from "../src/nn/scope.js";
import { input } from "../src/ops/index.js";
import { toFloat32 } from "../src/tensor/host.js";
import { openSafetensors } from "../src/weights/safetensors.js";
import { readTensor, type StoredTensor } from "../src/weights/source.js";
import { SD15, SDXL_UNET } from "./architectures.js";
import { writeRandomWeights } from "./random-weights.js";

const layer = (scope: Scope) => linear(scope.at("proj"), input([1, 3]), 5);

test.each(["float32", "float16"] as const)(
  "random %s weights are a safetensors file of all parameters",
  async (dtype) => {
    const folder = await mkdtemp(path.join(tmpdir(), "random-weights-"));
    try {
      const file = path.join(folder, "model.safetensors");
      expect(await writeRandomWeights(file, dtype, layer)).toBe(5 * 3 + 5);
      const opened = await openSafetensors(file);
      expect([...opened.names()].sort()).toEqual(["proj.bias", "proj.weight"]);
      const weight = opened.get("proj.weight") as StoredTensor;
      expect([weight.dtype, weight.shape]).toEqual([dtype, [5, 3]]);
      const values = toFloat32(await readTensor(weight));
      // Uniform in ± √(1.5 / 3)
      expect(values.every((x) => x !== 0 && Math.abs(x) <= Math.sqrt(0.5))).toBe(true);
      expect(new Set(values).size).toBe(15);
    } finally {
      await rm(folder, { recursive: true });
    }
  },
);

// The numbers of parameters of the published U-Nets in diffusers.
test.each([
  ["Stable Diffusion 1.5", SD15.unet, 859_520_964],
  ["Stable Diffusion XL", SDXL_UNET, 2_567_463_684],
])("the U-Net of %s has as many parameters as the published one", (_, json, count) => {
  const config = parseUnetConfig(json);
  const inputs = unetInputs(config, { batch: 1, height: 8, width: 8, tokens: 1 });
  expect(survey("unet", (scope) => unet(scope, config, inputs)).parameters.size).toBe(count);
});
