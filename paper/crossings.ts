/** Compares the methods that differentiate the reward with DDPO, which does not. */
import type { MethodResult } from "./comparison.js";
import { best, type Crossing, type Curve, crossing, type Point, type Saving, saving, until } from "./curves.js";
import type { Method } from "./methods.js";
import type { Results } from "./results.js";

const BASELINE = "ddpo";

export interface MethodCrossing extends Crossing {
  readonly name: string;
  readonly label: string;
  /** `queries` of each seed. */
  readonly seeds: readonly (Saving | null)[];
  /** Null if the method does not reach the reward, or if its CPU time was not measured. */
  readonly time: Saving | null;
}

/** Compares every method that differentiates the reward with DDPO: means over seeds, at the chosen learning rates. */
export function crossings({ methods, seconds }: Pick<Results, "methods" | "seconds">): MethodCrossing[] {
  const baseline = methods.find(({ method }) => method.name === BASELINE);
  return against(methods, baseline, ({ method, mean, seeds }) => {
    const found = crossing(mean, baseline?.mean ?? []);
    if (found === undefined) return undefined;
    const each = seeds.map(({ curve }) => crossing(curve, baseline?.mean ?? [])?.queries ?? null);
    return { ...found, seeds: each, time: timeSaved(method, found, seconds) };
  });
}

/**
 * The same with any learning rate of the grid on both sides, for the first seed: the best reward that DDPO had with any rate, and
 * the run that reaches it with the fewest queries.
 */
export function crossingsOfAnyRate({ methods, seconds }: Pick<Results, "methods" | "seconds">): MethodCrossing[] {
  const baseline = methods.find(({ method }) => method.name === BASELINE);
  const curves = (baseline?.tried ?? []).map(({ curve }) => curve);
  const top = curves.reduce<Curve>(
    (found, curve) => ((best(curve)?.reward ?? 0) > (best(found)?.reward ?? 0) ? curve : found),
    [],
  );
  return against(methods, baseline, ({ method, tried }) => {
    const all = tried.flatMap(({ curve }) => crossing(curve, top) ?? []);
    const found = all.toSorted((a, b) => queriesOf(a) - queriesOf(b))[0];
    return found && { ...found, seeds: [found.queries], time: timeSaved(method, found, seconds) };
  });
}

/** A reward that DDPO reached, and the queries until then, of DDPO and of the other methods. */
interface Rung {
  readonly reward: number;
  /** Reward queries of DDPO. */
  readonly baseline: number;
  readonly methods: readonly Crossing[];
}

/** The rungs are multiples of 0.25, up to the best reward of DDPO. */
export function ladder({ methods }: Pick<Results, "methods">): { labels: string[]; rungs: Rung[] } {
  const baseline = methods.find(({ method }) => method.name === BASELINE);
  const compared = methods.filter(({ method, mean }) => mean.length > 0 && isCompared(method, baseline));
  const [start, top] = [baseline?.mean[0]?.reward ?? 0, best(baseline?.mean ?? [])?.reward ?? 0];
  const rungs: Rung[] = [];
  for (let reward = Math.ceil(start * 4 + 1) / 4; reward <= top; reward += 0.25) {
    const untilReached = until(baseline?.mean ?? [], reward) as Curve;
    const crossed = compared.map(({ mean }) => crossing(mean, untilReached) as Crossing);
    rungs.push({ reward, baseline: (untilReached.at(-1) as Point).queries, methods: crossed });
  }
  return { labels: compared.map(({ method }) => method.label), rungs };
}

function isCompared({ compared, samples }: Method, baseline: MethodResult | undefined): boolean {
  return baseline !== undefined && compared && samples < baseline.method.samples;
}

function against(
  methods: readonly MethodResult[],
  baseline: MethodResult | undefined,
  of: (result: MethodResult) => Omit<MethodCrossing, "name" | "label"> | undefined,
): MethodCrossing[] {
  return methods.flatMap((result) => {
    const { name, label } = result.method;
    const found = isCompared(result.method, baseline) ? of(result) : undefined;
    return found === undefined ? [] : [{ name, label, ...found }];
  });
}

function queriesOf({ method }: Crossing): number {
  return method?.queries ?? Number.POSITIVE_INFINITY;
}

function timeSaved({ name }: Method, found: Crossing, seconds: Results["seconds"]): Saving | null {
  const [own, other] = [seconds[name], seconds[BASELINE]];
  if (own === undefined || other === undefined) return null;
  return saving(
    found,
    ({ update }) => update * own,
    ({ update }) => update * other,
  );
}
