/** A run of the comparison in its folder: begun, gone on with, or left as it is where it is done. And what a finished one says. */

import { rm } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { loadSettings, type Settings } from "../src/config/index.js";
import { InputError } from "../src/errors/index.js";
import { readImage } from "../src/images/read.js";
import type { RgbImage } from "../src/images/rgb.js";
import { writeFileAtomic } from "../src/io/atomic.js";
import { exists } from "../src/io/files.js";
import { readJson } from "../src/io/json.js";
import {
  isRun,
  leaves,
  readEvaluations,
  readMetrics,
  readSamples,
  runFiles,
  samplesFolder,
  savedSteps,
  stepsIn,
} from "../src/runs/record/index.js";
import { RunFolder } from "../src/runs/run-folder.js";
import { score } from "../src/scoring/index.js";
import { observers, type StepMetrics, type TrainObserver, train } from "../src/train/index.js";
import type { Curve } from "./curves.js";
import { overridesOf } from "./methods.js";

export interface RunOptions {
  readonly observer?: TrainObserver;
  readonly signal?: AbortSignal;
}

/** Updates that the run in `folder` has done and saved. */
export async function updatesDone(folder: string): Promise<number> {
  return (await savedSteps(folder)).at(-1) ?? 0;
}

/** Trains with `settings` in `folder` until `updates` are done. Gives false where that was so already. */
export async function runTo(
  folder: string,
  settings: Settings,
  updates: number,
  { observer = () => {}, signal }: RunOptions = {},
): Promise<boolean> {
  const done = await updatesDone(folder);
  if (await isRun(folder)) await requireSame(folder, settings);
  if (done >= updates) return false;
  // Killed before its first checkpoint, a run has nothing to go on from.
  if (done === 0 && (await isRun(folder))) await rm(folder, { recursive: true });
  const run =
    done === 0
      ? await RunFolder.plan({ ...settings, out: folder, train: { steps: updates } })
      : await RunFolder.resume(folder, overridesOf({ "train.steps": updates, threads: settings.threads }));
  await train(run.settings, observers(run.observe, observer), { resume: run.resumeFrom, signal });
  return true;
}

/** What may differ between two invocations: how long, where, and on how many threads. */
const FREE = /^(out|threads|memory|train|checkpoint)\b/;

/** A folder of an older version of the comparison must not pass for one of this. */
async function requireSame(folder: string, wanted: Settings): Promise<void> {
  const saved = leaves(await loadSettings({ recipe: join(folder, runFiles.config) }));
  for (const [key, value] of leaves(wanted)) {
    if (FREE.test(key) || saved.get(key) === value) continue;
    throw new InputError(
      "usage",
      `${folder}: this run was made with ${key} ${saved.get(key)}, and is wanted with ${value}; give another --out, or remove it`,
    );
  }
}

const AGREEMENT_FILE = "agreement.json";
const agreementFile = z.record(z.string(), z.number());

/** The evaluations of a run, with the updates that have a checkpoint or a later one: others may be made again. */
export async function readCurve(folder: string, threads: number | null): Promise<Curve> {
  const rows = new Map((await readMetrics(folder)).map((row) => [row.step, row]));
  const done = await updatesDone(folder);
  const evaluations = (await readEvaluations(folder)).filter(({ step }) => step <= done);
  const agreement = await agreements(folder, threads);
  return evaluations.map(({ step, mean }) => ({
    update: step,
    queries: step === 0 ? 0 : cost(rows, step).reward_queries,
    unet_calls: step === 0 ? 0 : cost(rows, step).unet_calls,
    reward: mean,
    agreement: agreement[step] as number,
  }));
}

function cost(rows: ReadonlyMap<number, StepMetrics>, step: number): StepMetrics {
  const row = rows.get(step);
  if (row === undefined)
    throw new InputError("usage", `${runFiles.metrics} has no row for step ${step}, which was evaluated`);
  return row;
}

/** The mean reward `clip` of each evaluation's pictures, judged once and remembered in the run's folder. */
async function agreements(folder: string, threads: number | null): Promise<Record<string, number>> {
  const path = join(folder, AGREEMENT_FILE);
  const known = (await exists(path)) ? await readJson(path, agreementFile, 1 << 20) : {};
  const missing = (await stepsIn(join(folder, runFiles.samples))).filter((step) => !(step in known));
  if (missing.length === 0) return known;
  const pictures: { step: number; name: string; prompt: string; read: () => Promise<RgbImage> }[] = [];
  for (const step of missing) {
    for (const { file, prompt } of await readSamples(folder, step)) {
      const path = join(samplesFolder(folder, step), file);
      pictures.push({ step, name: path, prompt, read: () => readImage(path) });
    }
  }
  const { rewards } = await score(
    pictures,
    await loadSettings({ recipe: "clip", overrides: overridesOf({ threads }) }),
  );
  for (const step of missing) {
    const own = rewards.filter((_, i) => pictures[i]?.step === step);
    known[step] = own.reduce((sum, reward) => sum + reward, 0) / own.length;
  }
  await writeFileAtomic(path, `${JSON.stringify(known, null, 2)}\n`);
  return known;
}
