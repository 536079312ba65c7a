/**
 * The arithmetic of the comparison: curves, their mean and spread over seeds, and where one method passes another. The keys of
 * `Point`, `Saving` and `Crossing` are those of docs/paper.json.
 */

/** An evaluation of a run, and the cost of training up to it. */
export interface Point {
  /** Training steps. */
  readonly update: number;
  /** Reward queries in training. */
  readonly queries: number;
  /** Calls of the U-Net on one image in training, forward and backward. */
  readonly unet_calls: number;
  /** Mean evaluation reward. */
  readonly reward: number;
  /** Agreement of the images with their prompts: the mean reward `clip` of the same images. */
  readonly agreement: number;
}

export type Curve = readonly Point[];

/** A point of the mean over seeds. */
export interface MeanPoint extends Point {
  /** Sample standard deviation over the seeds; null if there is one seed. */
  readonly spread: number | null;
  readonly seeds: number;
}

/** The mean over seeds at the steps that all curves have, so that all means are over the same seeds. */
export function meanCurve(curves: readonly Curve[]): MeanPoint[] {
  const [first, ...others] = curves;
  return (first ?? []).flatMap((point) => {
    const same = [point, ...others.flatMap((curve) => curve.filter(({ update }) => update === point.update))];
    if (same.length < curves.length) return [];
    const mean = (of: (point: Point) => number) => same.reduce((sum, each) => sum + of(each), 0) / same.length;
    const reward = mean((each) => each.reward);
    const squares = same.reduce((sum, each) => sum + (each.reward - reward) ** 2, 0);
    return {
      update: point.update,
      queries: mean((each) => each.queries),
      unet_calls: mean((each) => each.unet_calls),
      reward,
      agreement: mean((each) => each.agreement),
      spread: same.length > 1 ? Math.sqrt(squares / (same.length - 1)) : null,
      seeds: same.length,
    };
  });
}

/** The evaluation with the highest reward; the first of equals. */
export function best<P extends Point>(curve: readonly P[]): P | undefined {
  return curve.reduce<P | undefined>(
    (found, point) => (found && found.reward >= point.reward ? found : point),
    undefined,
  );
}

/** The first evaluation after training began that is at or above `reward`. */
export function firstAt<P extends Point>(curve: readonly P[], reward: number): P | undefined {
  return curve.find((point) => point.update > 0 && point.reward >= reward);
}

/** Factors by which something costs less than the baseline. */
export interface Saving {
  /** Compared with the baseline until its best evaluation. */
  readonly until_best: number;
  /** Compared with the whole run of the baseline. */
  readonly whole_run: number;
}

export interface Crossing {
  /** The reward to reach. */
  readonly reward: number;
  readonly baseline: { readonly best: Point; readonly last: Point };
  /** The first point at which the method reaches it. If it does not, this and the savings are null. */
  readonly method: Point | null;
  readonly queries: Saving | null;
  readonly unet_calls: Saving | null;
}

/**
 * Finds where `curve` reaches the best reward of `baseline`. The two may sample differently (DDPO adds noise at every step), and
 * so start from different rewards of the same model. Therefore the reward to reach is the baseline's best, or a gain as large as
 * the baseline's, whichever is higher. Returns undefined if a curve is empty or the baseline never improves.
 */
export function crossing(curve: Curve, baseline: Curve): Crossing | undefined {
  const [start, baseStart, top, last] = [curve[0], baseline[0], best(baseline), baseline.at(-1)];
  if (!start || !baseStart || !top || !last || top.update === 0) return undefined;
  const reward = Math.max(top.reward, start.reward + top.reward - baseStart.reward);
  const method = firstAt(curve, reward) ?? null;
  const found = { reward, baseline: { best: top, last }, method };
  const saved = (of: (point: Point) => number) => saving(found, of, of);
  return { ...found, queries: saved(({ queries }) => queries), unet_calls: saved(({ unet_calls }) => unet_calls) };
}

/** The curve until it first reaches `reward`; undefined if it never does. */
export function until(curve: Curve, reward: number): Curve | undefined {
  const at = curve.findIndex((point) => point.reward >= reward);
  return at < 0 ? undefined : curve.slice(0, at + 1);
}

/** `own` and `other` return the cost of a point, for the method and for the baseline. */
export function saving(
  { method, baseline }: Pick<Crossing, "method" | "baseline">,
  own: (point: Point) => number,
  other: (point: Point) => number,
): Saving | null {
  if (method === null) return null;
  return { until_best: other(baseline.best) / own(method), whole_run: other(baseline.last) / own(method) };
}

/** The result of a learning rate in the tuning. */
export interface Trial {
  readonly rate: number;
  readonly reward: number;
  readonly agreement: number;
}

/** The share of the base model's agreement below which images begin to lose their animals. */
const KEPT_AGREEMENT = 0.9;

/** The points of a curve, after its start, whose images still show their prompts. */
export function keepingAgreement<P extends Point>(curve: readonly P[]): P[] {
  const least = KEPT_AGREEMENT * (curve[0]?.agreement ?? 0);
  return curve.slice(1).filter(({ agreement }) => agreement >= least);
}

/** The share that a learning rate must keep. It is lower, because DDPO at its best keeps only a fifth. */
export const TUNED_AGREEMENT = 0.75;

/** The trial with the highest reward among those that keep enough agreement. If none does, the one with the most agreement. */
export function chooseRate<T extends Trial>(trials: readonly T[], agreementBefore: number): T | undefined {
  const kept = trials.filter(({ agreement }) => agreement >= TUNED_AGREEMENT * agreementBefore);
  const highest = (of: (trial: T) => number, among: readonly T[]) =>
    among.reduce<T | undefined>((found, trial) => (found && of(found) >= of(trial) ? found : trial), undefined);
  return kept.length > 0 ? highest(({ reward }) => reward, kept) : highest(({ agreement }) => agreement, trials);
}
