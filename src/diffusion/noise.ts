/** The noise of a chain. */
import { TorchGenerator } from "../tensor/torch-generator.js";
import type { StepNoise } from "./trajectory.js";

/** The latents that a picture starts from and, where eta is positive, what each step adds. */
export interface PictureNoise {
  readonly initial: Float32Array;
  readonly step: StepNoise;
}

/**
 * The noise of diffusers' `pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed))`, a generator for each picture:
 * the latents first, then one draw a step.
 */
export function seededNoise(elements: number, seed: number): PictureNoise {
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
