import type { Settings } from "../config/settings.js";
import { InputError } from "../errors/index.js";
import type { Value } from "../graph/value.js";
import { mean } from "../ops/index.js";
import { findPlace, type OpenListener } from "../pipeline/open-model.js";
import { openReward, type Reward, rewardTitle } from "../rewards/index.js";
import { fromTensors } from "../weights/source.js";

export type JudgeSettings = Pick<Settings, "reward"> & { readonly loading?: Settings["loading"] };

/** The reward of a run's settings, or another that `setting` names; what of it lies on the hub is fetched first. */
export async function openSettingsReward(
  { reward, loading }: JudgeSettings,
  listener: OpenListener = {},
  setting = "reward",
): Promise<Reward> {
  return openReward(reward, { find: (place, choose) => findPlace(place, setting, choose, loading, listener) });
}

/** For a plan, which fetches no reward: the reward as it is here, or one that counts for nothing, and why. */
export async function plannedReward(
  settings: JudgeSettings & { readonly loading: Settings["loading"] },
): Promise<{ readonly reward: Reward; readonly absent?: string }> {
  try {
    return { reward: await openSettingsReward({ ...settings, loading: { ...settings.loading, offline: true } }) };
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return { reward: uncountedReward(rewardTitle(settings.reward)), absent: error.message };
  }
}

/** Stands in a plan for a reward whose weights are absent: depends on the picture, costs next to nothing. */
function uncountedReward(name: string): Reward {
  return {
    name,
    weights: fromTensors(new Map()),
    build: (images: Value) => ({ rewards: mean(images, [1, 2, 3]), inputs: {} }),
    feeds: () => ({}),
    warnings: () => [],
  };
}
