/**
 * AlignProp as a library: the commands of the command line as functions, and what they take and give.
 *
 *     const settings = await loadSettings({ recipe: "default" });
 *     await train(settings, (event) => console.log(event.kind));
 */
export type { Cluster } from "./cluster/cluster.js";
export { connect } from "./cluster/connect.js";
export { type CheckOptions, checkReward, type RewardCheck } from "./rewards/check.js";
export {
  defineReward,
  ops,
  type RewardDefinition,
  type RewardModule,
  type RewardToolkit,
} from "./rewards/define.js";
export { readPicture } from "./rewards/picture.js";
export type { Reward, RewardGraph, RewardPart } from "./rewards/reward.js";
export { findPictures, type PictureFile } from "./runs/picture-files.js";
export { InputError } from "./tensor/errors.js";
export type { StopReason } from "./train/early-stop.js";
export type {
  Estimator,
  Lesson,
  RoundEstimator,
  Toolbox,
  UpdateEstimator,
} from "./train/estimators/estimator.js";
export type { EstimatorModule, EstimatorToolkit } from "./train/estimators/module.js";
export { type EvaluateOptions, evaluate } from "./train/evaluate.js";
export type {
  Diversity,
  EvaluationResult,
  Plan,
  RewardsOfPictures,
  RgbImage,
  StepMetrics,
  TrainEvent,
  TrainObserver,
  TrainResult,
} from "./train/events.js";
export { observers } from "./train/events.js";
export { type GenerateOptions, generate } from "./train/generate.js";
export { loadSettings, settingsFrom } from "./train/load-settings.js";
export { type MixForm, mixAdapters } from "./train/mix.js";
export type { Picture } from "./train/pictures.js";
export { plan } from "./train/plan.js";
export { type TrainOptions, train } from "./train/recipe.js";
export { type ScoredPicture, type ScoreOptions, type Scores, score } from "./train/score.js";
export type { Settings, SettingsInput } from "./train/settings.js";
export { type LoraAdapter, readLora, writeKohyaLora, writePeftLora } from "./weights/lora-files.js";
