/** From runs to what is shown of them: curves, their spread over seeds, and where one method passes another. Plain arithmetic. */

/** An evaluation of a run, and what the run had cost until then. */
export interface Point {
  /** Updates, or rounds of a method that learns in rounds. */
  readonly update: number;
  /** Rewards asked for in training. */
  readonly queries: number;
  /** Calls of the U-Net on one picture in training, forward or back. */
  readonly unet_calls: number;
  /** Mean evaluation reward. */
  readonly reward: number;
  /** How far the pictures still show their prompts: the mean reward `clip` of the same pictures. */
  readonly agreement: number;
}

export type Curve = readonly Point[];

/** The mean of several seeds. */
export interface MeanPoint extends Point {
  /** Standard deviation over the seeds (n − 1); null of one. */
  readonly spread: number | null;
  readonly seeds: number;
}

/** Of runs that went less far, what they have counts where all have it: a mean is always over the same seeds. */
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

/** How many times less something costs than the baseline. */
export interface Saving {
  /** Than the baseline did until its best evaluation. */
  readonly until_best: number;
  /** Than the baseline's whole run, which never did better. */
  readonly whole_run: number;
}

export interface Crossing {
  /** What must be reached. */
  readonly reward: number;
  readonly baseline: { readonly best: Point; readonly last: Point };
  /** Where the method reaches it; null, as the savings, where it does not. */
  readonly method: Point | null;
  readonly queries: Saving | null;
  readonly unet_calls: Saving | null;
}

/**
 * Where `curve` passes the best that `baseline` ever had. The two may sample differently (DDPO with noise at every step), so
 * that they begin at different rewards of the same model: what must be reached is the baseline's best, or as large a gain as the
 * baseline's, whichever is higher.
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

/** The curve until it first reaches `reward`; undefined where it never does. */
export function until(curve: Curve, reward: number): Curve | undefined {
  const at = curve.findIndex((point) => point.reward >= reward);
  return at < 0 ? undefined : curve.slice(0, at + 1);
}

/** `own` and `other` are what a point cost the method and the baseline. */
export function saving(
  { method, baseline }: Pick<Crossing, "method" | "baseline">,
  own: (point: Point) => number,
  other: (point: Point) => number,
): Saving | null {
  if (method === null) return null;
  return { until_best: other(baseline.best) / own(method), whole_run: other(baseline.last) / own(method) };
}

/** What a learning rate came to in the tuning. */
export interface Trial {
  readonly rate: number;
  readonly reward: number;
  readonly agreement: number;
}

/** The share of the model's own agreement with its prompts below which pictures begin to lose their animals. */
const KEPT_AGREEMENT = 0.9;

/** The part of a curve, after its start, whose pictures still show their prompts. */
export function keeping<P extends Point>(curve: readonly P[]): P[] {
  const least = KEPT_AGREEMENT * (curve[0]?.agreement ?? 0);
  return curve.slice(1).filter(({ agreement }) => agreement >= least);
}

/** The share that a learning rate must keep. Lower, since DDPO itself keeps a fifth where it is best. */
export const TUNED_AGREEMENT = 0.75;

/** The highest reward among those that keep enough; where none does, the one that keeps the most. */
export function chooseRate<T extends Trial>(trials: readonly T[], agreementBefore: number): T | undefined {
  const kept = trials.filter(({ agreement }) => agreement >= TUNED_AGREEMENT * agreementBefore);
  const highest = (of: (trial: T) => number, among: readonly T[]) =>
    among.reduce<T | undefined>((found, trial) => (found && of(found) >= of(trial) ? found : trial), undefined);
  return kept.length > 0 ? highest(({ reward }) => reward, kept) : highest(({ agreement }) => agreement, trials);
}
