/** Opens the reward that settings name. */

import type { LoadingSettings, SettingsPart } from "../config/index.js";
import { InputError } from "../errors/index.js";
import type { Value } from "../graph/value.js";
import { mean } from "../ops/index.js";
import { findLocation, type OpenListener } from "../pipeline/index.js";
import { openReward, type Reward, rewardTitle } from "../rewards/index.js";
import { fromTensors } from "../weights/source.js";

export type RewardSource = SettingsPart<"reward"> & { readonly loading?: LoadingSettings };

/** Opens a reward; its files on the hub are downloaded first. `setting` is the reward's key, for messages. */
export async function openSettingsReward(
  { reward, loading }: RewardSource,
  listener: OpenListener = {},
  setting = "reward",
): Promise<Reward> {
  return openReward(reward, {
    find: (location, choose) => findLocation(location, choose, { setting, loading, listener }),
  });
}

/** The reward of a plan, which downloads nothing. If it cannot be opened, `absent` says why, and the reward costs nothing. */
export async function plannedReward(
  settings: RewardSource & { readonly loading: LoadingSettings },
): Promise<{ readonly reward: Reward; readonly absent?: string }> {
  try {
    return { reward: await openSettingsReward({ ...settings, loading: { ...settings.loading, offline: true } }) };
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return { reward: uncountedReward(rewardTitle(settings.reward)), absent: error.message };
  }
}

/** Takes the place of a reward whose weights are absent: it depends on the image and costs next to nothing. */
function uncountedReward(name: string): Reward {
  return {
    name,
    weights: fromTensors(new Map()),
    build: (images: Value) => ({ rewards: mean(images, [1, 2, 3]), inputs: {} }),
    feeds: () => ({}),
    warnings: () => [],
  };
}
