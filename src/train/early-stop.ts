/**
 * Early stopping. A run's evaluations alone decide when it ends and which checkpoint is the best:
 *
 *     improvement       the monitored reward is more than `min_delta` above the best so far
 *     stop              no improvement in `patience` evaluations in a row,
 *                       or diversity below `min_diversity` times the base model's
 *     best checkpoint   the last improvement, among the evaluations that keep that diversity
 *
 * The base model (step 0) counts as the first evaluation to improve on, but it is not a checkpoint. A resumed run needs only its
 * evaluations to stop where it would have stopped, and anyone who reads a run folder finds the same best checkpoint.
 */
import type { EarlyStopSettings } from "../config/index.js";
import type { EvaluationResult } from "../scoring/index.js";

/** The means of one evaluation. */
export interface EvaluationSummary {
  /** 0 is the base model. */
  readonly step: number;
  readonly reward: number;
  readonly heldOut?: number | undefined;
  readonly diversity?: number | undefined;
}

/** The rule of a run without `early_stop`: it runs to its end, and the highest evaluation reward is best. */
const HIGHEST_REWARD: EarlyStopSettings = {
  monitor: "reward",
  patience: null,
  min_delta: 0,
  min_diversity: null,
};

export type StopReason =
  | {
      readonly kind: "no improvement";
      readonly monitor: EarlyStopSettings["monitor"];
      /** Evaluations since the best one. */
      readonly evaluations: number;
      readonly top: EvaluationSummary;
    }
  | { readonly kind: "diversity"; readonly diversity: number; readonly share: number; readonly base: number };

export interface Verdict {
  /** Step of the best checkpoint; undefined before the first evaluation of a trained model. */
  readonly best: number | undefined;
  /** Why the run should stop; undefined if it should go on. */
  readonly stop: StopReason | undefined;
}

/** `history` holds the run's evaluations in order. Evaluations without the monitored reward are ignored. */
export function verdict(history: readonly EvaluationSummary[], rule: EarlyStopSettings | null): Verdict {
  const { monitor, patience, min_delta: minDelta, min_diversity: share } = rule ?? HIGHEST_REWARD;
  const base = history.find(({ step }) => step === 0)?.diversity;
  const floor = share === null || base === undefined ? 0 : share * base;
  const trained = history.filter(({ step }) => step > 0);
  const diverse = trained.filter(({ diversity = Number.POSITIVE_INFINITY }) => diversity >= floor);
  const best = improvements(diverse, monitor, minDelta).at(-1) ?? improvements(trained, monitor, minDelta).at(-1);

  const last = trained.at(-1);
  if (last?.diversity !== undefined && share !== null && base !== undefined && last.diversity < floor) {
    return { best: best?.step, stop: { kind: "diversity", diversity: last.diversity, share, base } };
  }
  const top = improvements(history, monitor, minDelta).at(-1);
  const since = history.filter(
    ({ step, ...values }) => step > (top?.step ?? 0) && monitoredValue(values, monitor) !== undefined,
  );
  if (top !== undefined && patience !== null && since.length >= patience) {
    return { best: best?.step, stop: { kind: "no improvement", monitor, evaluations: since.length, top } };
  }
  return { best: best?.step, stop: undefined };
}

/** The evaluations that improve on all before them. */
function improvements(
  history: readonly EvaluationSummary[],
  monitor: EarlyStopSettings["monitor"],
  minDelta: number,
): EvaluationSummary[] {
  const found: EvaluationSummary[] = [];
  for (const each of history) {
    const value = monitoredValue(each, monitor);
    const top = found.at(-1);
    if (value === undefined) continue;
    if (top === undefined || value > (monitoredValue(top, monitor) as number) + minDelta) found.push(each);
  }
  return found;
}

export function monitoredValue(
  { reward, heldOut }: Omit<EvaluationSummary, "step">,
  monitor: EarlyStopSettings["monitor"],
): number | undefined {
  return monitor === "reward" ? reward : heldOut;
}

export function summaryOf(
  step: number,
  { mean, heldOut, diversity }: Pick<EvaluationResult, "mean" | "heldOut" | "diversity">,
): EvaluationSummary {
  return { step, reward: mean, heldOut: heldOut?.mean, diversity: diversity?.mean };
}
