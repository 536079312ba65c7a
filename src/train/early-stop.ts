/**
 * When a run ends before its last update, and which of its checkpoints is the best. Both follow from its evaluations alone:
 *
 *     a gain           the watched reward is more than `least_gain` above the best so far
 *     stop             no gain in `patience` evaluations in a row,
 *                      or a diversity below `least_diversity` times the base model's
 *     best checkpoint  the one after the last gain, among evaluations that keep that diversity
 *
 * The model as it was is the first to be surpassed, but no checkpoint. So a run that goes on from a checkpoint needs no more
 * than its evaluations to stop where it would have stopped, and whoever reads a run's folder comes to the same best.
 */

import type { Settings } from "../config/settings.js";
import type { EvaluationResult } from "../scoring/evaluation.js";

/** What an evaluation came to. */
export interface Evaluated {
  /** 0: the model as it was. */
  readonly step: number;
  readonly reward: number;
  readonly heldOut?: number | undefined;
  readonly diversity?: number | undefined;
}

export type StopRule = NonNullable<Settings["early_stop"]>;

/** Where nobody gave a rule: the run goes to its end, and the highest evaluation reward is best. */
export const HIGHEST_REWARD: StopRule = { watch: "reward", patience: null, least_gain: 0, least_diversity: null };

/** Why a run stopped. */
export type StopReason =
  | {
      readonly kind: "no gain";
      readonly watch: StopRule["watch"];
      readonly evaluations: number;
      readonly top: Evaluated;
    }
  | { readonly kind: "diversity"; readonly diversity: number; readonly share: number; readonly base: number };

export interface Verdict {
  /** The step of the best checkpoint; undefined before the first evaluation after an update. */
  readonly best: number | undefined;
  /** Undefined: the run goes on. */
  readonly stop: StopReason | undefined;
}

/** `history`: a run's evaluations so far, in order; those without the watched reward are passed over. */
export function verdict(history: readonly Evaluated[], rule: StopRule | null): Verdict {
  const { watch, patience, least_gain: least, least_diversity: share } = rule ?? HIGHEST_REWARD;
  const base = history.find(({ step }) => step === 0)?.diversity;
  const floor = share === null || base === undefined ? 0 : share * base;
  const trained = history.filter(({ step }) => step > 0);
  const diverse = trained.filter(({ diversity = Number.POSITIVE_INFINITY }) => diversity >= floor);
  const best = gains(diverse, watch, least).at(-1) ?? gains(trained, watch, least).at(-1);

  const last = trained.at(-1);
  if (last?.diversity !== undefined && share !== null && base !== undefined && last.diversity < floor) {
    return { best: best?.step, stop: { kind: "diversity", diversity: last.diversity, share, base } };
  }
  const top = gains(history, watch, least).at(-1);
  const since = history.filter(
    ({ step, ...values }) => step > (top?.step ?? 0) && watchedValue(values, watch) !== undefined,
  );
  if (top !== undefined && patience !== null && since.length >= patience) {
    return { best: best?.step, stop: { kind: "no gain", watch, evaluations: since.length, top } };
  }
  return { best: best?.step, stop: undefined };
}

/** Each evaluation that is a gain on the one before it in this list. */
function gains(history: readonly Evaluated[], watch: StopRule["watch"], least: number): Evaluated[] {
  const found: Evaluated[] = [];
  for (const each of history) {
    const value = watchedValue(each, watch);
    const top = found.at(-1);
    if (value === undefined) continue;
    if (top === undefined || value > (watchedValue(top, watch) as number) + least) found.push(each);
  }
  return found;
}

export function watchedValue(
  { reward, heldOut }: Omit<Evaluated, "step">,
  watch: StopRule["watch"],
): number | undefined {
  return watch === "reward" ? reward : heldOut;
}

export function evaluatedAt(
  step: number,
  { mean, heldOut, diversity }: Pick<EvaluationResult, "mean" | "heldOut" | "diversity">,
): Evaluated {
  return { step, reward: mean, heldOut: heldOut?.mean, diversity: diversity?.mean };
}
