/**
 * AlignProp as a library: the commands of the command line as functions, and what they take and give.
 *
 *     const settings = await loadSettings({ recipe: "default" });
 *     await train(settings, (event) => console.log(event.kind));
 */

export type { Cluster } from "./cluster/cluster.js";
export { connect } from "./cluster/connect.js";
export { loadSettings, settingsFrom } from "./config/load.js";
export type { Settings, SettingsInput } from "./config/settings.js";
export type { Plan } from "./engine/plan.js";
export { InputError } from "./errors/index.js";
export type {
  DirectEstimator,
  Estimator,
  EstimatorContext,
  RolloutEstimator,
  TrajectoryBatch,
} from "./estimators/estimator.js";
export type { EstimatorModule, EstimatorToolkit } from "./estimators/module.js";
export { readImage } from "./images/read.js";
export type { RgbImage } from "./images/rgb.js";
export { type GenerateOptions, generate } from "./pipeline/generate.js";
export type { ImageRequest } from "./pipeline/images.js";
export { type MixForm, mixAdapters } from "./pipeline/mix.js";
export { type CheckOptions, checkReward, type RewardCheck } from "./rewards/check.js";
export type { Reward, RewardGraph, RewardPart } from "./rewards/reward.js";
export {
  defineReward,
  ops,
  type RewardDefinition,
  type RewardModule,
  type RewardToolkit,
} from "./rewards/user/define.js";
export { findImages, type ImageFile } from "./runs/record/picture-files.js";
export { type EvaluateOptions, evaluate } from "./scoring/evaluate.js";
export type { Diversity, EvaluationResult, RewardSummary } from "./scoring/evaluation.js";
export { type ImageToScore, type ScoreOptions, type Scores, score } from "./scoring/score.js";
export type { StopReason } from "./train/early-stop.js";
export type { StepMetrics, TrainEvent, TrainObserver, TrainResult } from "./train/events.js";
export { observers } from "./train/events.js";
export type { TrainOptions } from "./train/options.js";
export { plan } from "./train/plan.js";
export { train } from "./train/trainer.js";
export { type LoraAdapter, readLora, writeKohyaLora, writePeftLora } from "./weights/lora-files.js";
