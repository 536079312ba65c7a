/** The tables of docs/paper.md. */
import { crossings, crossingsOfAnyRate, ladder, type MethodCrossing } from "./crossings.js";
import { best, keepingAgreement, type MeanPoint, type Saving } from "./curves.js";
import type { Final } from "./final.js";
import { table } from "./page.js";
import { plural, type Results } from "./results.js";

const number = (value: number | null | undefined, digits = 2) =>
  value === null || value === undefined ? "–" : value.toFixed(digits);
const times = (value: number | null | undefined) =>
  value === null || value === undefined ? "–" : `${value >= 10 ? value.toFixed(0) : value.toFixed(1)}x`;

const savings = (saved: Saving | null) =>
  saved === null ? "–" : `${times(saved.until_best)} / ${times(saved.whole_run)}`;

function aboutBaseline({ baseline: { best, last }, reward }: MethodCrossing): string {
  return (
    `DDPO's best evaluation reward is ${number(best.reward)}, after ${best.queries} of its ${last.queries} reward queries, with an ` +
    `agreement of ${number(best.agreement)}. The reward to reach is ${number(reward)}.`
  );
}

/** One line per method, for the terminal. */
export function claims(found: readonly MethodCrossing[]): string[] {
  const [first] = found;
  if (first === undefined) return [];
  return [
    `${aboutBaseline(first)} Factors compare with DDPO until its best / with its whole run:`,
    ...found.map(({ label, method, queries, time }) =>
      method === null
        ? `${label}: not reached`
        : `${label}: reached after ${method.queries} reward queries, ${savings(queries)} fewer${time === null ? "" : `, ${savings(time)} less time`}`,
    ),
  ];
}

function crossingTable(found: readonly MethodCrossing[]): string {
  const [first] = found;
  if (first === undefined) return table([], []);
  const head = [
    "",
    "reached after",
    "reward queries",
    "fewer queries",
    "fewer U-Net calls",
    "less time",
    "agreement at that step",
  ];
  const isOneSeed = found.every(({ seeds }) => seeds.length === 1);
  const body = table(
    isOneSeed ? head : [...head, "fewer queries, each seed"],
    found.map(({ label, method, queries, unet_calls, time, seeds }) => [
      label,
      method ? plural(method.update, "step") : "not reached",
      method ? String(method.queries) : "–",
      queries ? `**${savings(queries)}**` : "–",
      savings(unet_calls),
      savings(time),
      number(method?.agreement),
      ...(isOneSeed ? [] : [seeds.map(savings).join(", ")]),
    ]),
  );
  return `${aboutBaseline(first)} Factors compare with DDPO until its best / with its whole run.\n\n${body}`;
}

function ladderTable(results: Results): string {
  const { labels, rungs } = ladder(results);
  return table(
    ["evaluation reward", "DDPO's queries", ...labels],
    rungs.map(({ reward, baseline, methods }) => [
      number(reward),
      String(baseline),
      ...methods.map(({ method, queries }) => (method ? `${method.queries} (${times(queries?.until_best)})` : "–")),
    ]),
  );
}

function methodTable({ methods, base, seconds }: Results): string {
  const done = methods.filter(({ mean }) => mean.length > 0);
  const head = [
    "",
    "seeds",
    "steps",
    "reward queries",
    "evaluation reward",
    "agreement",
    "best that keeps 90 % agreement",
    "seen animals",
    "unseen animals",
    "agreement, unseen",
    "CPU seconds per step",
  ];
  const start = done[0]?.mean[0];
  const baseRow = base && [
    "base model",
    "",
    "0",
    "0",
    number(start?.reward),
    number(start?.agreement),
    "",
    number(base.seen.reward),
    number(base.unseen.reward),
    number(base.unseen.agreement),
    "",
  ];
  const rows = done
    .filter(({ method }) => method.name !== "compressibility")
    .map(({ method, seeds, mean }) => {
      const last = mean.at(-1) as MeanPoint;
      const finals = seeds.flatMap(({ final }) => final ?? []);
      return [
        method.label,
        String(last.seeds),
        String(last.update),
        String(last.queries),
        `${number(last.reward)}${last.spread === null ? "" : ` ± ${number(last.spread)}`}`,
        number(last.agreement),
        number(best(keepingAgreement(mean))?.reward),
        number(meanOf(finals, ({ seen }) => seen.reward)),
        number(meanOf(finals, ({ unseen }) => unseen.reward)),
        number(meanOf(finals, ({ unseen }) => unseen.agreement)),
        number(seconds[method.name]),
      ];
    });
  return table(head, baseRow ? [baseRow, ...rows] : rows);
}

function meanOf(finals: readonly Final[], value: (final: Final) => number): number | null {
  return finals.length === 0 ? null : finals.reduce((sum, final) => sum + value(final), 0) / finals.length;
}

/** The tables of docs/paper.md, by the name of their place. */
export function tables(results: Results): Record<string, string> {
  const { methods, mix } = results;
  return {
    claim: crossingTable(crossings(results)),
    any: crossingTable(crossingsOfAnyRate(results)),
    ladder: ladderTable(results),
    methods: methodTable(results),
    tuning: table(
      ["", "steps", "learning rate: reward (agreement)", "chosen"],
      methods
        .filter(({ tuning }) => tuning.trials.length > 0)
        .map(({ method, tuning: { trials, chosen } }) => [
          method.label,
          String(method.tuningSteps),
          trials.map(({ rate, reward, agreement }) => `${rate}: ${number(reward)} (${number(agreement)})`).join("; "),
          chosen === undefined ? "not all rates are tried yet" : String(chosen),
        ]),
    ),
    mix: table(
      ["share of the aesthetic adapter", "aesthetic", "compressibility"],
      mix.map(({ coefficient, aesthetic, compressibility }) => [
        String(coefficient),
        number(aesthetic),
        number(compressibility),
      ]),
    ),
  };
}
