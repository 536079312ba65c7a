/** How a run records a reward and an estimator that were made in code. */
import { resolvedLoss, type SettingsPart } from "../config/index.js";
import type { Estimator } from "../estimators/index.js";
import type { Reward } from "../rewards/index.js";

export interface PartsInCode {
  /** A reward made in code (`defineReward`), which replaces that of the settings. */
  readonly reward?: Reward | undefined;
  /** An estimator made in code, which replaces that of the settings. */
  readonly estimator?: Estimator | undefined;
}

/**
 * The settings with the names of the reward and the estimator that are made in code. A checkpoint stores these settings, so a
 * run can only be resumed with a reward and an estimator of the same names.
 */
export function withPartsInCode<S extends SettingsPart<"reward" | "estimator">>(
  settings: S,
  { reward, estimator }: PartsInCode,
): S {
  return {
    ...settings,
    ...(reward && { reward: { name: "code", title: reward.name } }),
    ...(estimator && { estimator: { name: "code", title: estimator.name } }),
  };
}

/**
 * The settings with a loss for a reward made in code. The default loss of the replaced reward does not fit another one: the
 * target of `aesthetic` is 10, for example. So a loss that equals that default becomes -reward. Another loss stays.
 */
export function withLossInCode<S extends SettingsPart<"reward" | "loss">>(settings: S, { reward }: PartsInCode): S {
  if (reward === undefined || settings.reward.name === "code") return settings;
  const { form, target, scale } = settings.loss;
  const unset = { form: null, target: null, scale };
  const replaced = resolvedLoss({ loss: unset, reward: settings.reward });
  if (form !== replaced.form || target !== replaced.target) return settings;
  return { ...settings, loss: resolvedLoss({ loss: unset, reward: { name: "code", title: reward.name } }) };
}
