/**
 * AlignProp as a library: the commands of the command line as functions, and what they take and give.
 *
 *     const settings = await loadSettings({ recipe: "default" });
 *     await train(settings, (event) => console.log(event.kind));
 */

export type { Cluster } from "./cluster/index.js";
export { connect } from "./cluster/index.js";
export type { Settings, SettingsInput } from "./config/index.js";
export { loadSettings, settingsFrom } from "./config/index.js";
export type { Plan } from "./engine/index.js";
export { InputError } from "./errors/index.js";
export type {
  DirectEstimator,
  Estimator,
  EstimatorContext,
  EstimatorModule,
  EstimatorToolkit,
  RolloutEstimator,
  TrajectoryBatch,
} from "./estimators/index.js";
export { readImage } from "./images/read.js";
export type { RgbImage } from "./images/rgb.js";
export type { ImageRequest } from "./pipeline/index.js";
export { type GenerateOptions, generate, type MixForm, mixAdapters } from "./pipeline/index.js";
export type { Reward, RewardGraph, RewardPart } from "./rewards/index.js";
export {
  type CheckOptions,
  checkReward,
  defineReward,
  ops,
  type RewardCheck,
  type RewardDefinition,
  type RewardModule,
  type RewardToolkit,
} from "./rewards/index.js";
export { findImages, type ImageFile } from "./runs/record/index.js";
export type { Diversity, EvaluationResult, RewardSummary } from "./scoring/index.js";
export {
  type EvaluateOptions,
  evaluate,
  type ImageToScore,
  type ScoreOptions,
  type Scores,
  score,
} from "./scoring/index.js";
export type { StepMetrics, StopReason, TrainEvent, TrainObserver, TrainOptions, TrainResult } from "./train/index.js";
export { observers, plan, train } from "./train/index.js";
export { type LoraAdapter, readLora, writeKohyaLora, writePeftLora } from "./weights/lora-files.js";
