/**
 * AlignProp as a library: what the commands of the command line do, as functions.
 *
 *     const settings = await loadSettings({ recipe: "default" });
 *     const { folder, adapter, evaluation } = await trainRun(settings, {
 *       onProgress: ({ step, steps, reward }) => console.log(`${step}/${steps}: ${reward}`),
 *     });
 *     const [fox] = await generate({ ...settings, images: [{ prompt: "fox", seed: 7 }], adapter });
 *     if (fox) await writePng("fox.png", fox);
 *
 * `trainRun` and `resumeRun` write a run folder. `train` writes nothing: it reports events to an observer. `examples/` has a
 * program for each task.
 */

export { type Cluster, connect, type Environment, type WaitOptions } from "./cluster/index.js";
export type {
  EarlyStopSettings,
  LoadingSettings,
  LoadOptions,
  ModelSettings,
  Override,
  Settings,
  SettingsInput,
  SettingsPart,
} from "./config/index.js";
export { loadSettings, settingsFrom } from "./config/index.js";
export { type ChainStep, type DdimStep, type Linear, noised, predicted } from "./diffusion/ddim.js";
export type { ChainNoise } from "./diffusion/noise.js";
export {
  type Denoiser,
  type KeepMask,
  pullback,
  type StepNoise,
  stack,
  type Trajectory,
  take,
  type Vjp,
  type VjpCall,
} from "./diffusion/trajectory.js";
export type { MemoryPlan, Plan, PlanEstimate, PlanOption } from "./engine/index.js";
export { type ErrorCode, type ErrorFact, type ErrorFacts, InputError } from "./errors/index.js";
export type {
  DirectEstimator,
  Estimator,
  EstimatorContext,
  EstimatorModule,
  EstimatorToolkit,
  RolloutEstimator,
  SampleOptions,
  ScoredPrompt,
  TrainingSample,
  TrajectoryBatch,
  UnetCall,
  UnetCallOptions,
} from "./estimators/index.js";
export type { Value } from "./graph/value.js";
export { type ReadImageOptions, readImage } from "./images/read.js";
export type { RgbImage } from "./images/rgb.js";
export { writePng } from "./images/write.js";
export type { FileContent } from "./io/files.js";
export type { WeightHolding } from "./onnx/lower.js";
export {
  addAdapters,
  type GenerateOptions,
  generate,
  type ImageRequest,
  type MixForm,
  type MixOptions,
  mixAdapters,
  type OpenListener,
  type Precision,
  type WeightedAdapter,
} from "./pipeline/index.js";
export type { BatchGradients, BatchLosses } from "./rewards/index.js";
export {
  type CheckOptions,
  checkReward,
  defineReward,
  ops,
  type Reward,
  type RewardCheck,
  type RewardDefinition,
  type RewardGraph,
  type RewardModule,
  type RewardPart,
  type RewardToolkit,
} from "./rewards/index.js";
export { loadAdapter, loadRun, type SavedCheckpoint, type SavedRun } from "./runs/load-run.js";
export { findImages, type ImageFile } from "./runs/record/index.js";
export {
  type NewRunOptions,
  type ResumeOptions,
  resumeRun,
  type TrainedRun,
  type TrainProgress,
  type TrainRunOptions,
  trainRun,
} from "./runs/train-run.js";
export {
  type Diversity,
  type EvaluateOptions,
  type EvaluateSettings,
  type EvaluationResult,
  evaluate,
  type ImageToScore,
  type RewardSummary,
  type ScoreOptions,
  type Scores,
  score,
} from "./scoring/index.js";
export type { DType } from "./tensor/dtype.js";
export type { HostData, HostTensor } from "./tensor/host.js";
export type { Rng, RngState } from "./tensor/rng.js";
export type { Shape } from "./tensor/shape.js";
export {
  type EvaluationSummary,
  observers,
  type PartsInCode,
  type PlanOptions,
  plan,
  type StepMetrics,
  type StopReason,
  type TrainEvent,
  type TrainObserver,
  type TrainOptions,
  type TrainResult,
  train,
} from "./train/index.js";
export type { FetchProgress } from "./weights/hub/snapshot.js";
export type { Look, LookKind, LookOptions } from "./weights/look/kinds.js";
export { look } from "./weights/look/look.js";
export {
  type Adapter,
  type DoraModule,
  type LoraAdapter,
  type LoraModule,
  type Magnitude,
  writeKohyaLora,
  writePeftLora,
} from "./weights/lora-files.js";
export { type ReadLoraOptions, readAdapter, readLora } from "./weights/read-adapter.js";
export { fromTensors, type StoredTensor, type WeightSource } from "./weights/source.js";
