/**
 * Whole pipelines of Stable Diffusion 2 and XL, of distilled forms and of odd ones, beside PyTorch, diffusers and PEFT
 * (parity/families.py): the same tiny folders of random weights. `npm run parity` makes the same comparison on others.
 */
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { type Comparison, compareFamily, TOLERANCES } from "../parity/families.js";
import { Runtime } from "../src/runtime/runtime.js";

const goldens = (path: string) => fileURLToPath(new URL(`./goldens/${path}`, import.meta.url));
const runtime = await Runtime.start({ threads: 1 });
afterAll(() => runtime.close());

describe("beside PyTorch", () => {
  for (const family of readdirSync(goldens("families"))) {
    test(`${family}: text, U-Net, gradients, trajectory, VAE and a whole update agree`, async () => {
      const errors = await compareFamily(runtime, goldens(`families/${family}`), goldens("tiny-reward"));
      const tooFar = Object.entries(errors).filter(([name, error]) => !(error <= TOLERANCES[name as Comparison]));
      expect(tooFar).toEqual([]);
    });
  }
});
