import type { Settings } from "../config/settings.js";
import type { Estimator } from "../estimators/estimator.js";
import type { Pipeline } from "../pipeline/pipeline.js";
import type { Precision } from "../pipeline/precision.js";
import type { TrainableLayout } from "../pipeline/trainable.js";
import type { Reward } from "../rewards/index.js";
import type { Monitors } from "../scoring/monitors.js";

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
