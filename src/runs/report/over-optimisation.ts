/**
 * Detects whether a run over-optimised its reward, and when that began: the reward rises, but other measures of quality
 * fall. One of two signs is enough:
 *
 *     held-out reward   below its peak by more than its noise, while the reward is above its value at that peak
 *     diversity         below a share of the base model's
 *
 * All evaluations use the same prompts and seeds, so the change of the held-out reward is measured per image. Its noise
 * is two standard errors of the mean of these changes.
 */

import type { SettingsPart } from "../../config/index.js";
import type { EvaluationRecord } from "../record/index.js";
import { format } from "./format.js";
import { monitorTitle, percent } from "./monitor-text.js";

/** Share of the base model's diversity, if `early_stop.min_diversity` gives no other. */
const MIN_DIVERSITY = 0.5;

type Monitored = SettingsPart<"reward" | "evaluation" | "early_stop">;

export interface OverOptimisation {
  /** Step of the last evaluation before it began; undefined if there is no sign of it. */
  readonly step: number | undefined;
  /** The result as a sentence. */
  readonly text: string;
}

export function overOptimisation(evaluations: readonly EvaluationRecord[], settings: Monitored): OverOptimisation {
  const none = (text: string): OverOptimisation => ({ step: undefined, text });
  const [base, last] = [evaluations[0], evaluations.at(-1)];
  const { held_out, diversity } = settings.evaluation;
  if (held_out === null && diversity === null) {
    return none(
      "The reward alone cannot show over-optimisation. Set evaluation.held_out or evaluation.diversity to detect it.",
    );
  }
  if (base === undefined || last === undefined || last.step === base.step)
    return none("There is no second evaluation to compare with yet.");
  const signs = [pastPeak(evaluations, settings), lowDiversity(evaluations, settings)].filter(
    (sign) => sign !== undefined,
  );
  if (signs.length === 0)
    return none(`No sign of over-optimisation: ${finalValues(evaluations, settings).join("; ")}.`);
  const step = Math.min(...signs.map((sign) => sign.step));
  const onset = step === base.step ? "in its first steps" : `after step ${step}`;
  return { step, text: `The run began to over-optimise ${onset}: ${signs.map(({ text }) => text).join("; ")}.` };
}

interface Sign {
  readonly step: number;
  readonly text: string;
}

/** Sentences about the held-out reward and the diversity of the last evaluation. */
function finalValues(evaluations: readonly EvaluationRecord[], settings: Monitored): string[] {
  const [base, last, peak] = [evaluations[0], evaluations.at(-1), peakOf(evaluations)];
  const found: string[] = [];
  if (last?.heldOut && peak?.heldOut) {
    const [title, now, highest] = [
      monitorTitle("held-out", settings),
      format(last.heldOut.mean),
      `${format(peak.heldOut.mean)} at step ${peak.step}`,
    ];
    if (peak.step === last.step) found.push(`${title} was highest at the end, ${now}`);
    else if (!fellSince(peak, last)) found.push(`${title} ended at ${now}, within its noise of its peak, ${highest}`);
    else {
      found.push(
        `${title} fell to ${now} from its peak, ${highest}, but ${monitorTitle("reward", settings)} did not rise either: ` +
          "training was unstable, and a lower learning rate may help",
      );
    }
  }
  if (base?.diversity && last?.diversity) {
    const share = percent(last.diversity.mean / base.diversity.mean);
    found.push(`the diversity of the images is ${share} of the base model's`);
  }
  return found;
}

function pastPeak(evaluations: readonly EvaluationRecord[], settings: Monitored): Sign | undefined {
  const peak = peakOf(evaluations);
  if (!peak?.heldOut) return undefined;
  const after = evaluations.filter((each) => each.step > peak.step && each.mean > peak.mean && fellSince(peak, each));
  const [first, last] = [after[0], after.at(-1)];
  if (!first?.heldOut || !last?.heldOut) return undefined;
  return {
    step: peak.step,
    text:
      `${monitorTitle("held-out", settings)} was highest ${peak === evaluations[0] ? "before training" : "there"}, ${format(peak.heldOut.mean)}, and fell to ` +
      `${format(last.heldOut.mean)} by step ${last.step} (by more than its noise from step ${first.step} on), while ` +
      `${monitorTitle("reward", settings)} rose from ${format(peak.mean)} to ${format(last.mean)}`,
  };
}

function lowDiversity(evaluations: readonly EvaluationRecord[], { early_stop: rule }: Monitored): Sign | undefined {
  const base = evaluations[0]?.diversity;
  if (!base) return undefined;
  const share = rule?.min_diversity ?? MIN_DIVERSITY;
  const first = evaluations.find(({ diversity }) => diversity !== undefined && diversity.mean < share * base.mean);
  if (!first?.diversity) return undefined;
  const now = percent(first.diversity.mean / base.mean);
  return {
    step: first.step,
    text: `at step ${first.step} the images of a prompt had become alike, with a diversity of ${format(first.diversity.mean)}, ${now} of the base model's ${format(base.mean)}`,
  };
}

/** The evaluation with the highest held-out reward; the first one if several share it. */
function peakOf(evaluations: readonly EvaluationRecord[]): EvaluationRecord | undefined {
  const highest = Math.max(...evaluations.map(({ heldOut }) => heldOut?.mean ?? Number.NEGATIVE_INFINITY));
  return evaluations.find(({ heldOut }) => heldOut?.mean === highest);
}

/** True if the held-out reward of the same images fell by more than two standard errors. */
export function fellSince({ heldOut: before }: EvaluationRecord, { heldOut: after }: EvaluationRecord): boolean {
  if (!before || before.rewards.length !== after?.rewards.length || before.rewards.length < 2) return false;
  const changes = after.rewards.map((value, i) => value - (before.rewards[i] as number));
  const n = changes.length;
  const mean = changes.reduce((sum, change) => sum + change, 0) / n;
  const variance = changes.reduce((sum, change) => sum + (change - mean) ** 2, 0) / (n - 1);
  return mean < -2 * Math.sqrt(variance / n);
}
