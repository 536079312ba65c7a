/**
 * Whether and where a run began to over-optimise: to raise its reward at the expense of what it was not trained on. Two signs,
 * either of which is enough:
 *
 *     held-out reward   past its peak by more than its noise, while the reward it learns from is above what it was there
 *     diversity         below a share of the base model's
 *
 * An evaluation draws the same pictures each time, so the noise of a difference is that of its pictures' own differences: two
 * standard errors of their mean.
 */

import type { SettingsPart } from "../../config/index.js";
import type { EvaluationRecord } from "../record/index.js";
import { format } from "./format.js";
import { monitorTitle, percent } from "./monitor-text.js";

/** Of the base model's diversity, where no rule names another share. */
const LEAST_DIVERSITY = 0.5;

type Watched = SettingsPart<"reward" | "evaluation" | "early_stop">;

export interface Judgement {
  /** The last evaluation before it began; undefined where there is no sign of it. */
  readonly step: number | undefined;
  /** In a sentence. */
  readonly text: string;
}

export function overOptimisation(evaluations: readonly EvaluationRecord[], settings: Watched): Judgement {
  const none = (text: string): Judgement => ({ step: undefined, text });
  const [base, last] = [evaluations[0], evaluations.at(-1)];
  const { held_out, diversity } = settings.evaluation;
  if (held_out === null && diversity === null) {
    return none(
      "Whether it over-optimised cannot be told from the reward alone: evaluation.held_out and evaluation.diversity watch it.",
    );
  }
  if (base === undefined || last === undefined || last.step === base.step) return none("Nothing to compare yet.");
  const signs = [pastPeak(evaluations, settings), tooAlike(evaluations, settings)].filter((sign) => sign !== undefined);
  if (signs.length === 0) return none(`No sign of over-optimisation: ${standing(evaluations, settings).join("; ")}.`);
  const step = Math.min(...signs.map((sign) => sign.step));
  const where = step === base.step ? "from its first updates on" : `after step ${step}`;
  return { step, text: `The run began to over-optimise ${where}: ${signs.map(({ text }) => text).join("; ")}.` };
}

interface Sign {
  readonly step: number;
  readonly text: string;
}

/** Where what is watched stands at the end. */
function standing(evaluations: readonly EvaluationRecord[], settings: Watched): string[] {
  const [base, last, peak] = [evaluations[0], evaluations.at(-1), peakOf(evaluations)];
  const found: string[] = [];
  if (last?.heldOut && peak?.heldOut) {
    const [title, now, highest] = [
      monitorTitle("held-out", settings),
      format(last.heldOut.mean),
      `${format(peak.heldOut.mean)} at step ${peak.step}`,
    ];
    if (peak.step === last.step) found.push(`${title} was highest at the end, ${now}`);
    else if (!fellSince(peak, last))
      found.push(`${title}, ${now} at the end, is within its noise of its highest, ${highest}`);
    else {
      const remedy = "the run came apart, and a lower learning rate may help";
      found.push(
        `${title}, ${now} at the end, is past its highest, ${highest}, but so is the reward itself: ${remedy}`,
      );
    }
  }
  if (base?.diversity && last?.diversity) {
    const share = percent(last.diversity.mean / base.diversity.mean);
    found.push(`the diversity of the pictures is ${share} of the base model's`);
  }
  return found;
}

function pastPeak(evaluations: readonly EvaluationRecord[], settings: Watched): Sign | undefined {
  const peak = peakOf(evaluations);
  if (!peak?.heldOut) return undefined;
  const after = evaluations.filter((each) => each.step > peak.step && each.mean > peak.mean && fellSince(peak, each));
  const [first, last] = [after[0], after.at(-1)];
  if (!first?.heldOut || !last?.heldOut) return undefined;
  return {
    step: peak.step,
    text:
      `${monitorTitle("held-out", settings)} was highest ${peak === evaluations[0] ? "before it" : "there"}, ${format(peak.heldOut.mean)}, and fell to ` +
      `${format(last.heldOut.mean)} by step ${last.step} (by more than its noise from step ${first.step} on), while the reward ` +
      `went from ${format(peak.mean)} to ${format(last.mean)}`,
  };
}

function tooAlike(evaluations: readonly EvaluationRecord[], { early_stop: rule }: Watched): Sign | undefined {
  const base = evaluations[0]?.diversity;
  if (!base) return undefined;
  const share = rule?.min_diversity ?? LEAST_DIVERSITY;
  const first = evaluations.find(({ diversity }) => diversity !== undefined && diversity.mean < share * base.mean);
  if (!first?.diversity) return undefined;
  const now = percent(first.diversity.mean / base.mean);
  return {
    step: first.step,
    text: `at step ${first.step} the pictures of a prompt were alike, with a diversity of ${format(first.diversity.mean)}, ${now} of the base model's ${format(base.mean)}`,
  };
}

/** The first of the highest. */
function peakOf(evaluations: readonly EvaluationRecord[]): EvaluationRecord | undefined {
  const highest = Math.max(...evaluations.map(({ heldOut }) => heldOut?.mean ?? Number.NEGATIVE_INFINITY));
  return evaluations.find(({ heldOut }) => heldOut?.mean === highest);
}

/** Whether the held-out reward of the same pictures is lower by more than two standard errors. */
export function fellSince({ heldOut: before }: EvaluationRecord, { heldOut: after }: EvaluationRecord): boolean {
  if (!before || before.rewards.length !== after?.rewards.length || before.rewards.length < 2) return false;
  const changes = after.rewards.map((value, i) => value - (before.rewards[i] as number));
  const n = changes.length;
  const mean = changes.reduce((sum, change) => sum + change, 0) / n;
  const variance = changes.reduce((sum, change) => sum + (change - mean) ** 2, 0) / (n - 1);
  return mean < -2 * Math.sqrt(variance / n);
}
