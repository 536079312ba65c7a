/** The runs of the comparison, in `<out>/<method>/lr-<rate>/seed-<n>`: which there are to train, and their results. */
import { join } from "node:path";
import { exists } from "../src/io/files.js";
import { samplesFolder } from "../src/runs/record/index.js";
import { type Curve, chooseRate, type MeanPoint, meanCurve, type Trial } from "./curves.js";
import { type Final, knownFinal } from "./final.js";
import type { Method, Run } from "./methods.js";
import { readCurve, stepsDone } from "./run.js";

export function folderOf(out: string, { method, rate, seed }: Run): string {
  return join(out, method.name, `lr-${rate}`, `seed-${seed}`);
}

/** A run, and the number of training steps to bring it to. */
export interface Job extends Run {
  readonly steps: number;
}

/** The short runs that choose the learning rate. They have the first seed. */
export function tuningJobs(method: Method): Job[] {
  if (method.rates.length === 1) return [];
  return method.rates.map((rate) => ({ method, rate, seed: method.seeds[0] as number, steps: method.tuningSteps }));
}

export function finalJobs(method: Method, rate: number, seeds: readonly number[]): Job[] {
  return method.seeds
    .filter((seed) => seeds.includes(seed))
    .map((seed) => ({ method, rate, seed, steps: method.steps }));
}

/** The remaining work of jobs, in U-Net calls on one image. It is proportional to time. */
export async function workLeft(out: string, jobs: readonly Job[]): Promise<number> {
  let work = 0;
  for (const job of jobs) {
    const left = Math.max(0, job.steps - (await stepsDone(folderOf(out, job))));
    work += left * job.method.unetCalls * job.method.samples;
  }
  return work;
}

export interface Tuning {
  readonly trials: readonly Trial[];
  /** The rate that the rule chooses. Undefined until all were tried. */
  readonly chosen: number | undefined;
}

/** Compares all rates at the same step, even if the chosen one has been trained further. */
export async function readTuning(out: string, method: Method, threads: number | null): Promise<Tuning> {
  if (method.rates.length === 1) return { trials: [], chosen: method.rates[0] };
  const trials: Trial[] = [];
  let before = 0;
  for (const job of tuningJobs(method)) {
    const curve = await curveOf(out, job, threads);
    const point = curve.find(({ update }) => update === method.tuningSteps);
    if (point === undefined) continue;
    before = curve[0]?.agreement ?? 0;
    trials.push({ rate: job.rate, reward: point.reward, agreement: point.agreement });
  }
  const complete = trials.length === method.rates.length;
  return { trials, chosen: complete ? chooseRate(trials, before)?.rate : undefined };
}

/** Empty if the run has no evaluation yet. */
async function curveOf(out: string, run: Run, threads: number | null): Promise<Curve> {
  const folder = folderOf(out, run);
  return (await exists(samplesFolder(folder, 0))) ? await readCurve(folder, threads) : [];
}

export interface SeedResult {
  readonly seed: number;
  readonly curve: Curve;
  readonly final: Final | undefined;
}

/** The results of a method so far. */
export interface MethodResult {
  readonly method: Method;
  readonly tuning: Tuning;
  readonly seeds: readonly SeedResult[];
  readonly mean: readonly MeanPoint[];
  /** The curve of the first seed with each rate. */
  readonly tried: readonly { readonly rate: number; readonly curve: Curve }[];
}

export async function readMethod(out: string, method: Method, threads: number | null): Promise<MethodResult> {
  const tuning = await readTuning(out, method, threads);
  const seeds: SeedResult[] = [];
  for (const seed of tuning.chosen === undefined ? [] : method.seeds) {
    const run = { method, rate: tuning.chosen as number, seed };
    const curve = await curveOf(out, run, threads);
    // The mean ends with the shortest curve, so a seed that has just started is left out.
    if ((curve.at(-1)?.update ?? 0) <= method.tuningSteps && seed !== method.seeds[0]) continue;
    if (curve.length > 1) seeds.push({ seed, curve, final: await knownFinal(folderOf(out, run)) });
  }
  const mean = meanCurve(seeds.map(({ curve }) => curve));
  const tried = [];
  for (const { rate, seed } of tuningJobs(method)) {
    tried.push({ rate, curve: await curveOf(out, { method, rate, seed }, threads) });
  }
  return { method, tuning, seeds, mean, tried };
}
