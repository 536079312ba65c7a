/** `paper.json`, the charts, and the tables of `paper.md`, from whatever runs there are. */
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Terminal } from "../src/cli/terminal.js";
import { writeFileAtomic } from "../src/io/atomic.js";
import { exists } from "../src/io/files.js";
import { type ChartSeries, chart } from "./chart.js";
import { folderOf, type MethodResult, readMethod } from "./comparison.js";
import {
  best,
  type Crossing,
  type Curve,
  crossing,
  keeping,
  type MeanPoint,
  type Point,
  type Saving,
  saving,
  TUNED_AGREEMENT,
  until,
} from "./curves.js";
import { type Final, knownFinal } from "./final.js";
import { METHODS, type Method, settingsOf } from "./methods.js";
import { type Mix, readMix } from "./mix.js";
import { fillIn, table } from "./page.js";
import { pictureSheet, type Row } from "./pictures.js";
import { readSeconds } from "./seconds.js";

/** What is beside DDPO in the charts of costs; the other truncations have a chart of their own. */
const AGAINST_DDPO = ["uniform", "k1", "full", "draft-lv", "refl", "ddpo", "rwr"];
const TRUNCATIONS = ["per-step", "uniform", "gaussian", "k1", "k2", "k5", "full"];
const BASELINE = "ddpo";
const PICTURES = "images/paper-pictures.webp";

interface Results {
  readonly methods: readonly MethodResult[];
  /** The model as it is. */
  readonly base: Final | undefined;
  /** Of an update on a machine at rest, by the method's name. */
  readonly seconds: Readonly<Record<string, number>>;
  readonly mix: readonly Mix[];
}

export interface MethodCrossing extends Crossing {
  readonly name: string;
  readonly label: string;
  /** `queries` of each seed by itself. */
  readonly seeds: readonly (Saving | null)[];
  /** Null as well where the seconds of an update were not measured. */
  readonly time: Saving | null;
}

/** Against DDPO, for every method that differentiates the reward: the means of the seeds, with the rates that the rule chose. */
function crossings({ methods, seconds }: Pick<Results, "methods" | "seconds">): MethodCrossing[] {
  const baseline = methods.find(({ method }) => method.name === BASELINE);
  return against(methods, baseline, ({ method, mean, seeds }) => {
    const found = crossing(mean, baseline?.mean ?? []);
    if (found === undefined) return undefined;
    const each = seeds.map(({ curve }) => crossing(curve, baseline?.mean ?? [])?.queries ?? null);
    return { ...found, seeds: each, time: timeSaved(method, found, seconds) };
  });
}

/** The same with any rate that was tried, on both sides: the best that DDPO ever had, and the first run of the first seed to reach it. */
function crossingsOfAnyRate({ methods, seconds }: Pick<Results, "methods" | "seconds">): MethodCrossing[] {
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

/** A reward on the way to DDPO's best, what DDPO asked until it was there, and what the others did. */
interface Rung {
  readonly reward: number;
  readonly baseline: number;
  readonly methods: readonly Crossing[];
}

/** Every quarter of a point that DDPO reached. */
function ladder({ methods }: Pick<Results, "methods">): { labels: string[]; rungs: Rung[] } {
  const baseline = methods.find(({ method }) => method.name === BASELINE);
  const compared = methods.filter(({ method, mean }) => mean.length > 0 && isCompared(method, baseline));
  const [start, top] = [baseline?.mean[0]?.reward ?? 0, best(baseline?.mean ?? [])?.reward ?? 0];
  const rungs: Rung[] = [];
  for (let reward = Math.ceil(start * 4 + 1) / 4; reward <= top; reward += 0.25) {
    const way = until(baseline?.mean ?? [], reward) as Curve;
    const crossed = compared.map(({ mean }) => crossing(mean, way) as Crossing);
    rungs.push({ reward, baseline: (way.at(-1) as Point).queries, methods: crossed });
  }
  return { labels: compared.map(({ method }) => method.label), rungs };
}

function isCompared({ compared, pictures }: Method, baseline: MethodResult | undefined): boolean {
  return baseline !== undefined && compared && pictures < baseline.method.pictures;
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

export async function writeResults(
  out: string,
  docs: string,
  threads: number | null,
  terminal: Terminal,
): Promise<void> {
  const methods: MethodResult[] = [];
  for (const method of METHODS) methods.push(await readMethod(out, method, threads));
  const results: Results = {
    methods,
    base: await knownFinal(join(out, "base")),
    seconds: await readSeconds(out),
    mix: await readMix(out),
  };
  if (!methods.some(({ mean }) => mean.length > 0)) return;
  await mkdir(join(docs, "images"), { recursive: true });
  await writeFileAtomic(join(docs, "paper.json"), `${JSON.stringify(await summary(results), rounded, 1)}\n`);
  for (const [name, svg] of charts(results)) await writeFileAtomic(join(docs, "images", `paper-${name}.svg`), svg);
  const rows = await pictureRows(results, out);
  if (rows.length > 1) await writeFileAtomic(join(docs, PICTURES), await pictureSheet(rows));
  const page = join(docs, "paper.md");
  if (await exists(page)) {
    const text = Object.entries(tables(results)).reduce(
      (text, [name, content]) => fillIn(text, name, content),
      await readFile(page, "utf8"),
    );
    await writeFileAtomic(page, text);
  }
  for (const line of claims(crossings(results))) terminal.print(line);
}

async function summary(results: Results) {
  const { methods, seconds } = results;
  const [first] = METHODS;
  const { sampling, prompts, evaluation } = await settingsOf({
    method: first as (typeof METHODS)[0],
    rate: 1,
    seed: 0,
  });
  return {
    about:
      "npm run paper: the comparison of docs/paper.md. Rewards are the embedded aesthetic's; agreement is the embedded CLIP's.",
    model: "models/emoji-64",
    reward: "aesthetic",
    sampling: { steps: sampling.steps, guidance_scale: sampling.guidance_scale },
    evaluation: { prompts: prompts.eval, seeds_per_prompt: evaluation.seeds_per_prompt, seed: evaluation.seed },
    tuning_rule: `the highest reward after the tuning's updates among learning rates that keep ${TUNED_AGREEMENT} of the model's own agreement`,
    base: results.base,
    crossings: crossings(results),
    crossings_of_any_rate: crossingsOfAnyRate(results),
    methods: methods
      .filter(({ mean }) => mean.length > 0)
      .map(({ method, tuning, seeds, mean, tried }) => ({
        name: method.name,
        label: method.label,
        pictures: method.pictures,
        updates: mean.at(-1)?.update,
        updates_asked: method.updates,
        tuning: { updates: method.tuning, ...tuning },
        processor_seconds_per_update: seconds[method.name] ?? null,
        columns: ["update", "queries", "unet_calls", "reward", "agreement"],
        seeds: seeds.map(({ seed, curve, final }) => ({
          seed,
          curve: curve.map(row),
          final,
        })),
        spread: mean.map(({ spread }) => spread),
        tried: tried.map(({ rate, curve }) => ({ rate, curve: curve.map(row) })),
      })),
    mix: results.mix,
  };
}

/** The model as it is, and of each method the first seed at the end. */
async function pictureRows({ methods }: Results, out: string): Promise<Row[]> {
  const rows: Row[] = [];
  for (const { method, tuning, seeds } of methods) {
    const [first] = seeds;
    if ("reward" in method.overrides || first === undefined || tuning.chosen === undefined) continue;
    const folder = folderOf(out, { method, rate: tuning.chosen, seed: first.seed });
    const { update, queries } = first.curve.at(-1) as Point;
    if (rows.length === 0) rows.push({ label: "the model as it is", folder, update: 0 });
    rows.push({ label: `${method.label}, ${queries} queries`, folder, update });
  }
  return rows;
}

/** As `columns` says. */
function row({ update, queries, unet_calls, reward, agreement }: Point): number[] {
  return [update, queries, unet_calls, reward, agreement];
}

/** Four digits are more than the numbers mean. */
function rounded(_: string, value: unknown): unknown {
  return typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value;
}

function charts({ methods, seconds }: Results): Map<string, string> {
  const start = methods.find(({ mean }) => mean[0])?.mean[0]?.reward;
  const level = start === undefined ? {} : { level: { y: start, label: "the model as it is" } };
  const y = "evaluation reward";
  const series = (names: readonly string[], x: (point: MeanPoint, name: string) => number | undefined) =>
    names.flatMap((name): ChartSeries[] => {
      const result = methods.find(({ method }) => method.name === name);
      if (result === undefined || result.mean.length === 0) return [];
      const points = result.mean.flatMap((point) => {
        const at = x(point, name);
        return at === undefined ? [] : [{ x: at, y: point.reward, spread: point.spread }];
      });
      return points.length === 0 ? [] : [{ label: labelOf(result), points }];
    });
  const time = ({ update }: MeanPoint, name: string) => {
    const each = seconds[name];
    return each === undefined ? undefined : each * update;
  };
  const found = new Map<string, string>();
  const add = (name: string, options: Parameters<typeof chart>[0]) => {
    if (options.series.length > 0) found.set(name, chart(options));
  };
  add("queries", {
    title: "Evaluation reward against reward queries",
    x: "reward queries in training (logarithmic)",
    y,
    scale: "log",
    series: series(AGAINST_DDPO, ({ queries }) => queries),
    ...level,
  });
  add("calls", {
    title: "Evaluation reward against U-Net calls",
    x: "calls of the U-Net on a picture, forward or back (logarithmic)",
    y,
    scale: "log",
    series: series(AGAINST_DDPO, ({ unet_calls }) => unet_calls),
    ...level,
  });
  add("seconds", {
    title: "Evaluation reward against time",
    x: "seconds of the processor (logarithmic)",
    y,
    scale: "log",
    series: series(AGAINST_DDPO, time),
    ...level,
  });
  add("truncation", {
    title: "How much of the chain keeps its gradient",
    x: "updates of 8 pictures",
    y,
    series: series(TRUNCATIONS, ({ update }) => update),
    ...level,
  });
  add("ddpo", {
    title: "DDPO, its steps counted by their noise or alike",
    x: "rounds of 64 pictures",
    y,
    series: series(["ddpo", "ddpo-equal"], ({ update }) => update),
    ...level,
  });
  add("unet", {
    title: "An adapter against every weight",
    x: "updates of 8 pictures",
    y,
    series: series(["uniform", "unet"], ({ update }) => update),
    ...level,
  });
  add("agreement", {
    title: "What a reward costs: does the picture still show its animal?",
    x: "evaluation reward",
    y: "agreement with the prompt (CLIP)",
    series: METHODS.filter(({ compared }) => compared).flatMap(({ name }): ChartSeries[] => {
      const result = methods.find(({ method }) => method.name === name);
      if (result === undefined || result.mean.length === 0) return [];
      return [
        { label: labelOf(result), points: result.mean.map(({ reward, agreement }) => ({ x: reward, y: agreement })) },
      ];
    }),
  });
  return found;
}

function labelOf({ method, seeds }: MethodResult): string {
  const { length } = seeds;
  return length === method.seeds.length && length > 1 ? method.label : `${method.label} (${plural(length, "seed")})`;
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

const number = (value: number | null | undefined, digits = 2) =>
  value === null || value === undefined ? "–" : value.toFixed(digits);
const times = (value: number | null | undefined) =>
  value === null || value === undefined ? "–" : `${value >= 10 ? value.toFixed(0) : value.toFixed(1)}x`;

const savings = (saved: Saving | null) =>
  saved === null ? "–" : `${times(saved.until_best)} / ${times(saved.whole_run)}`;

function aboutBaseline({ baseline: { best, last }, reward }: MethodCrossing): string {
  return (
    `DDPO's best evaluation reward is ${number(best.reward)}, after ${best.queries} of its ${last.queries} reward queries, with an ` +
    `agreement of ${number(best.agreement)}. To be reached: ${number(reward)}.`
  );
}

/** A line for each method. */
function claims(found: readonly MethodCrossing[]): string[] {
  const [first] = found;
  if (first === undefined) return [];
  return [
    `${aboutBaseline(first)} Times fewer than DDPO until its best / than its whole run:`,
    ...found.map(({ label, method, queries, time }) =>
      method === null
        ? `${label}: not reached`
        : `${label}: after ${method.queries} reward queries, ${savings(queries)} fewer${time === null ? "" : `, ${savings(time)} less time`}`,
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
    "agreement there",
  ];
  const oneSeed = found.every(({ seeds }) => seeds.length === 1);
  const body = table(
    oneSeed ? head : [...head, "fewer queries, each seed"],
    found.map(({ label, method, queries, unet_calls, time, seeds }) => [
      label,
      method ? plural(method.update, "update") : "not reached",
      method ? String(method.queries) : "–",
      queries ? `**${savings(queries)}**` : "–",
      savings(unet_calls),
      savings(time),
      number(method?.agreement),
      ...(oneSeed ? [] : [seeds.map(savings).join(", ")]),
    ]),
  );
  return `${aboutBaseline(first)} Factors are against DDPO until its best / against its whole run, which never did better.\n\n${body}`;
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

function tables(results: Results): Record<string, string> {
  const { methods, base, seconds, mix } = results;
  const done = methods.filter(({ mean }) => mean.length > 0);
  const finals = (seeds: MethodResult["seeds"]) => seeds.flatMap(({ final }) => (final ? [final] : []));
  const meanOf = (all: readonly Final[], of: (final: Final) => number) =>
    all.length === 0 ? null : all.reduce((sum, final) => sum + of(final), 0) / all.length;
  return {
    claim: crossingTable(crossings(results)),
    any: crossingTable(crossingsOfAnyRate(results)),
    ladder: ladderTable(results),
    methods: table(
      [
        "",
        "seeds",
        "updates",
        "reward queries",
        "evaluation reward",
        "agreement",
        "best that keeps 90 % agreement",
        "seen animals",
        "unseen animals",
        "agreement, unseen",
        "processor seconds an update",
      ],
      [
        ...(base
          ? [
              [
                "the model as it is",
                "",
                "0",
                "0",
                number(done[0]?.mean[0]?.reward),
                number(done[0]?.mean[0]?.agreement),
                "",
                number(base.seen.reward),
                number(base.unseen.reward),
                number(base.unseen.agreement),
                "",
              ],
            ]
          : []),
        ...done
          .filter(({ method }) => method.name !== "compressibility")
          .map(({ method, seeds, mean }) => {
            const last = mean.at(-1) as MeanPoint;
            const all = finals(seeds);
            return [
              method.label,
              String(last.seeds),
              String(last.update),
              String(last.queries),
              `${number(last.reward)}${last.spread === null ? "" : ` ± ${number(last.spread)}`}`,
              number(last.agreement),
              number(best(keeping(mean))?.reward),
              number(meanOf(all, ({ seen }) => seen.reward)),
              number(meanOf(all, ({ unseen }) => unseen.reward)),
              number(meanOf(all, ({ unseen }) => unseen.agreement)),
              number(seconds[method.name]),
            ];
          }),
      ],
    ),
    tuning: table(
      ["", "updates", "learning rate: reward (agreement)", "chosen"],
      methods
        .filter(({ tuning }) => tuning.trials.length > 0)
        .map(({ method, tuning: { trials, chosen } }) => [
          method.label,
          String(method.tuning),
          trials.map(({ rate, reward, agreement }) => `${rate}: ${number(reward)} (${number(agreement)})`).join("; "),
          chosen === undefined ? "not all tried yet" : String(chosen),
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
