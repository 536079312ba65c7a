export { type CheckOptions, checkReward, type RewardCheck } from "./check.js";
export { pathsOnly } from "./kind.js";
export {
  asMapping as rewardMapping,
  defaultLoss,
  isRewardFile,
  openReward,
  rewardNames,
  rewardSettings,
  rewardTitle,
} from "./registry.js";
export type { Reward, RewardGraph, RewardPart } from "./reward.js";
export {
  type BatchGradients,
  type BatchLosses,
  type BatchRewards,
  joinParts,
  type PartRewards,
  partMeans,
} from "./scores.js";
export { embedImages, type OpenedClip, openClip } from "./towers/clip-model.js";
export { defineReward, ops, type RewardDefinition, type RewardModule, type RewardToolkit } from "./user/define.js";
export { type OnnxReward, type OnnxSettings, onnxSchema, openOnnxReward } from "./user/onnx.js";
export { showPreprocessing } from "./user/onnx-preprocessing.js";
