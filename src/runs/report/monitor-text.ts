/** What is watched beside the reward, in words. */

import type { EarlyStopSettings, SettingsPart } from "../../config/index.js";
import { rewardTitle } from "../../rewards/index.js";
import { monitoredValue, type StopReason } from "../../train/index.js";
import { format } from "./format.js";

type Titles = SettingsPart<"reward" | "evaluation">;

/** "the held-out clip reward" */
export function monitorTitle(monitor: EarlyStopSettings["monitor"], { reward, evaluation }: Titles): string {
  return monitor === "reward" || evaluation.held_out === null
    ? `the evaluation's ${rewardTitle(reward)} reward`
    : `the held-out ${rewardTitle(evaluation.held_out)} reward`;
}

/** Why a run stopped, to follow a colon. */
export function stopText(reason: StopReason, settings: Titles & SettingsPart<"early_stop">): string {
  switch (reason.kind) {
    case "no improvement": {
      const { top, monitor, evaluations } = reason;
      const least = settings.early_stop?.min_delta ?? 0;
      const where = top.step === 0 ? "the model as it was" : `step ${top.step}`;
      return (
        `${monitorTitle(monitor, settings)} has not risen ${least > 0 ? `by more than ${format(least)} ` : ""}above its ` +
        `${format(monitoredValue(top, monitor) as number)} of ${where} in ${evaluations} ${evaluations === 1 ? "evaluation" : "evaluations"}`
      );
    }
    case "diversity": {
      const { diversity, share, base } = reason;
      return `the diversity of its pictures, ${format(diversity)}, is below ${percent(share)} of the base model's ${format(base)}`;
    }
  }
}

/** The rule in a sentence. */
export function ruleText(settings: Titles & SettingsPart<"early_stop">): string {
  const { early_stop: rule } = settings;
  if (rule === null) return "No rule: the run goes to its last update, and the highest evaluation reward is best.";
  const ends = [
    ...(rule.patience === null
      ? []
      : [
          `${monitorTitle(rule.monitor, settings)} has not risen ${rule.min_delta > 0 ? `by more than ${format(rule.min_delta)} ` : ""}` +
            `above its best in ${rule.patience} ${rule.patience === 1 ? "evaluation" : "evaluations in a row"}`,
        ]),
    ...(rule.min_diversity === null
      ? []
      : [`the diversity of the pictures is below ${percent(rule.min_diversity)} of the base model's`]),
  ];
  const best = `The best checkpoint is the one where ${monitorTitle(rule.monitor, settings)} was highest.`;
  return ends.length === 0 ? best : `Rule: stop when ${ends.join(", or when ")}. ${best}`;
}

export function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}
