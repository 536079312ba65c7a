import type { ChainNoise } from "../diffusion/noise.js";
import type { Rng } from "../tensor/rng.js";

/** One image that a training step generates, with everything random about it. */
export interface TrainingSample {
  readonly epoch: number;
  /** Index within the epoch, from 0. */
  readonly index: number;
  readonly prompt: string;
  /** True at the denoising steps whose U-Net call is differentiated. Empty for a `RolloutEstimator`. */
  readonly mask: readonly boolean[];
  /** Initial latents, and the noise of each step where eta is positive. */
  noise(): ChainNoise;
  /** A generator for anything else that an estimator draws; each `use` has its own sequence. */
  rng(...use: number[]): Rng;
}
