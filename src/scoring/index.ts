export { type CheckedOutput, checkReward, type OnnxCheck } from "./check-onnx.js";
export { type EvaluateOptions, type EvaluateSettings, evaluate } from "./evaluate.js";
export type { Diversity, EvaluationResult, RewardSummary } from "./evaluation.js";
export { Evaluator } from "./evaluator.js";
export {
  imageScorerGraphs,
  imageShape,
  type PartGraph,
  scorerCalls,
  type TrainingScorerGraphs,
  trainingScorerGraphs,
} from "./graphs.js";
export { type Monitors, monitorGraphs, monitorMetrics, openMonitors, plannedMonitors } from "./monitors.js";
export { openSettingsReward, plannedReward } from "./open-reward.js";
export { type ImageToScore, type ScoreOptions, type Scores, score } from "./score.js";
export { LatentScorer } from "./scorer.js";
export { meanAndStd } from "./statistics.js";
