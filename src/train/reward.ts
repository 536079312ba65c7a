import { existsSync } from "node:fs";
import type { Value } from "../graph/value.js";
import { mean } from "../ops/index.js";
import { defaultRewardFolder, openReward, type Reward } from "../rewards/index.js";
import { onnxReward } from "../rewards/onnx.js";
import { InputError } from "../tensor/errors.js";
import { fromTensors } from "../weights/source.js";
import { locate } from "./locate.js";
import type { RewardSettings } from "./settings.js";

/** The reward of a run's settings, its weights found as every path of a recipe is. */
export async function openSettingsReward(reward: RewardSettings): Promise<Reward> {
  if (reward.name === "onnx") return onnxReward(reward, { find: locate });
  const absent = absentWeights(reward);
  if (absent !== undefined) {
    throw new InputError(
      `reward.weights: ${absent} is not here. The ${reward.name} reward of this recipe takes published weights, which ` +
        'are not part of this package and which this version does not fetch: docs/rewards.md says under "Using other ' +
        'weights" what belongs there. Without them a run can be planned (alignprop plan) but not started',
    );
  }
  const folder = folderOf(reward);
  return openReward(reward.name, folder === undefined ? "" : locate(folder));
}

/** The folder of weights that the reward needs and that is not there. */
export function absentWeights(reward: RewardSettings): string | undefined {
  const folder = folderOf(reward);
  return folder === undefined || existsSync(locate(folder)) ? undefined : folder;
}

const folderOf = (reward: RewardSettings) =>
  reward.name === "onnx" ? undefined : (reward.weights ?? defaultRewardFolder(reward.name));

/** Stands in a plan for a reward whose weights are absent: depends on the picture, costs next to nothing. */
export function uncountedReward(name: string): Reward {
  return {
    name,
    weights: fromTensors(new Map()),
    build: (images: Value) => ({ rewards: mean(images, [1, 2, 3]), inputs: {} }),
    feeds: () => ({}),
    warnings: () => [],
  };
}
