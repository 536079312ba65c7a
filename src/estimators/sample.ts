import type { PictureNoise } from "../diffusion/noise.js";
import type { Rng } from "../tensor/rng.js";

export interface TrainingSample {
  readonly epoch: number;
  /** Within the epoch. */
  readonly index: number;
  readonly prompt: string;
  /** For each denoising step: does it keep its gradient? Empty where the estimator chooses later (`RoundEstimator`). */
  readonly mask: readonly boolean[];
  /** Of its chain. */
  noise(): PictureNoise;
  /** Random numbers for what else an estimator draws; each use has its own. */
  rng(...use: number[]): Rng;
}
