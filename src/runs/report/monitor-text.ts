/** Sentences about early stopping and the rewards and diversity that a run monitors. */

import type { EarlyStopSettings, SettingsPart } from "../../config/index.js";
import { rewardTitle } from "../../rewards/index.js";
import { monitoredValue, type StopReason } from "../../train/index.js";
import { format } from "./format.js";

type Titles = SettingsPart<"reward" | "evaluation">;

/** The name of the monitored reward in a sentence: "the held-out clip reward". */
export function monitorTitle(monitor: EarlyStopSettings["monitor"], { reward, evaluation }: Titles): string {
  return monitor === "reward" || evaluation.held_out === null
    ? `the evaluation's ${rewardTitle(reward)} reward`
    : `the held-out ${rewardTitle(evaluation.held_out)} reward`;
}

/** Why a run stopped, as a clause that follows a colon. */
export function stopText(reason: StopReason, settings: Titles & SettingsPart<"early_stop">): string {
  switch (reason.kind) {
    case "no improvement": {
      const { top, monitor, evaluations } = reason;
      const minDelta = settings.early_stop?.min_delta ?? 0;
      const source = top.step === 0 ? "the base model" : `step ${top.step}`;
      return (
        `${monitorTitle(monitor, settings)} has not risen ${minDelta > 0 ? `by more than ${format(minDelta)} ` : ""}above the ` +
        `${format(monitoredValue(top, monitor) as number)} of ${source} in ${evaluations} ${evaluations === 1 ? "evaluation" : "evaluations"}`
      );
    }
    case "diversity": {
      const { diversity, share, base } = reason;
      return `the diversity of the images, ${format(diversity)}, is below ${percent(share)} of the base model's ${format(base)}`;
    }
  }
}

/** The early-stop rule in one or two sentences. */
export function ruleText(rule: EarlyStopSettings, settings: Titles): string {
  const conditions = [
    ...(rule.patience === null
      ? []
      : [
          `${monitorTitle(rule.monitor, settings)} has not risen ${rule.min_delta > 0 ? `by more than ${format(rule.min_delta)} ` : ""}` +
            `above its best in ${rule.patience} ${rule.patience === 1 ? "evaluation" : "evaluations in a row"}`,
        ]),
    ...(rule.min_diversity === null
      ? []
      : [`the diversity of the images is below ${percent(rule.min_diversity)} of the base model's`]),
  ];
  const best = `The best checkpoint is the one where ${monitorTitle(rule.monitor, settings)} was highest.`;
  return conditions.length === 0 ? best : `Rule: stop when ${conditions.join(", or when ")}. ${best}`;
}

export function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}
