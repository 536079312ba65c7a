/** The noise of the denoising chain. */
import { TorchGenerator } from "../tensor/torch-generator.js";
import type { StepNoise } from "./trajectory.js";

/** The initial latents of one image and, if eta is positive, the noise that each step adds. */
export interface ChainNoise {
  readonly initial: Float32Array;
  readonly step: StepNoise;
}

/**
 * The same noise as diffusers' `pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed))`, with one generator
 * per image: the initial latents first, then one draw per step. `elements` is the size of an image's latents.
 */
export function seededNoise(elements: number, seed: number): ChainNoise {
  const generator = new TorchGenerator(seed);
  const initial = generator.randn(elements);
  const drawn: Float32Array[] = [];
  return {
    initial,
    step(step) {
      while (drawn.length <= step) drawn.push(generator.randn(elements));
      return drawn[step] as Float32Array;
    },
  };
}
