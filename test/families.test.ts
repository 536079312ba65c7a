/**
 * Compares whole pipelines with PyTorch, diffusers and PEFT (parity/families.py): Stable Diffusion 2 and XL, distilled and unusual
 * models, all tiny and with random weights. `npm run parity` makes the same comparison with other random weights.
 */
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { type Comparison, compareFamily, TOLERANCES } from "../parity/families.js";
import { Runtime } from "../src/runtime/runtime.js";

const goldens = (path: string) => fileURLToPath(new URL(`./goldens/${path}`, import.meta.url));
const runtime = await Runtime.start({ threads: 1 });
afterAll(() => runtime.close());

describe("compared with PyTorch", () => {
  for (const family of readdirSync(goldens("families"))) {
    test(`${family}: text encoder, U-Net, gradients, trajectory, VAE and a whole training step agree`, async () => {
      const errors = await compareFamily(runtime, goldens(`families/${family}`), goldens("tiny-reward"));
      const tooFar = Object.entries(errors).filter(([name, error]) => !(error <= TOLERANCES[name as Comparison]));
      expect(tooFar).toEqual([]);
    });
  }
});
