import type { Settings } from "../config/index.js";
import type { Estimator } from "../estimators/index.js";
import type { Pipeline, Precision, TrainableLayout } from "../pipeline/index.js";
import type { Reward } from "../rewards/index.js";
import type { Monitors } from "../scoring/index.js";

/** Everything that a training run consists of, opened and checked. `settings` are as the user gave them. */
export interface TrainingSetup {
  readonly settings: Settings;
  readonly pipeline: Pipeline;
  readonly reward: Reward;
  readonly monitors: Monitors;
  readonly estimator: Estimator;
  /** Names, shapes and offsets of the trainable parameters in one vector. */
  readonly layout: TrainableLayout;
  /** Precision of the U-Net. */
  readonly precision: Precision;
}
