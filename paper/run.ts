/** Starts or resumes a run of the comparison in its folder, and reads its curve. */
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

/** Training steps that the run in `folder` has done and saved. */
export async function stepsDone(folder: string): Promise<number> {
  return (await savedSteps(folder)).at(-1) ?? 0;
}

/**
 * Trains with `settings` in `folder` until `steps` training steps are done. Returns false if they were done before.
 *
 * @throws InputError if the folder holds a run with other settings
 */
export async function runTo(
  folder: string,
  settings: Settings,
  steps: number,
  { observer = () => {}, signal }: RunOptions = {},
): Promise<boolean> {
  const done = await stepsDone(folder);
  if (await isRun(folder)) await requireSame(folder, settings);
  if (done >= steps) return false;
  // A run that was killed before its first checkpoint starts again.
  if (done === 0 && (await isRun(folder))) await rm(folder, { recursive: true });
  const run =
    done === 0
      ? await RunFolder.plan({ ...settings, out: folder, train: { steps } })
      : await RunFolder.resume(folder, overridesOf({ "train.steps": steps, threads: settings.threads }));
  await train(run.settings, observers(run.observe, observer), { resume: run.resumeFrom, signal });
  return true;
}

/** Settings that may differ between two invocations. */
const MAY_DIFFER = /^(out|threads|memory|train|checkpoint)\b/;

/** Refuses a folder that an older version of the comparison made. */
async function requireSame(folder: string, expected: Settings): Promise<void> {
  const saved = leaves(await loadSettings({ recipe: join(folder, runFiles.config) }));
  for (const [key, value] of leaves(expected)) {
    if (MAY_DIFFER.test(key) || saved.get(key) === value) continue;
    throw new InputError(
      "run-mismatch",
      `${folder}: the run has ${key} ${saved.get(key)}, but the comparison needs ${value}. Give another --out, or remove the folder.`,
      { path: folder, setting: key, found: saved.get(key), expected: value },
    );
  }
}

const AGREEMENT_FILE = "agreement.json";
const agreementFile = z.record(z.string(), z.number());

/** The evaluations of a run up to its last checkpoint. Later ones are repeated when the run resumes. */
export async function readCurve(folder: string, threads: number | null): Promise<Curve> {
  const rows = new Map((await readMetrics(folder)).map((row) => [row.step, row]));
  const done = await stepsDone(folder);
  const evaluations = (await readEvaluations(folder)).filter(({ step }) => step <= done);
  const agreement = await agreements(folder, threads);
  const costAt = (step: number): Pick<StepMetrics, "reward_queries" | "unet_calls"> => {
    if (step === 0) return { reward_queries: 0, unet_calls: 0 };
    const row = rows.get(step);
    if (row !== undefined) return row;
    const path = join(folder, runFiles.metrics);
    const message = `${path}: step ${step} was evaluated, but has no row. Remove the run and train it again.`;
    throw new InputError("run-incomplete", message, { path, step });
  };
  return evaluations.map(({ step, mean }) => {
    const { reward_queries: queries, unet_calls } = costAt(step);
    return { update: step, queries, unet_calls, reward: mean, agreement: agreement[step] as number };
  });
}

/** The mean reward `clip` of each evaluation's images, by step. Scores are stored in the run's folder. */
async function agreements(folder: string, threads: number | null): Promise<Record<string, number>> {
  const path = join(folder, AGREEMENT_FILE);
  const known = (await exists(path)) ? await readJson(path, agreementFile, 1 << 20) : {};
  const missing = (await stepsIn(join(folder, runFiles.samples))).filter((step) => !(step in known));
  if (missing.length === 0) return known;
  const images: { step: number; name: string; prompt: string; read: () => Promise<RgbImage> }[] = [];
  for (const step of missing) {
    for (const { file, prompt } of await readSamples(folder, step)) {
      const path = join(samplesFolder(folder, step), file);
      images.push({ step, name: path, prompt, read: () => readImage(path) });
    }
  }
  const { rewards } = await score(images, await loadSettings({ recipe: "clip", overrides: overridesOf({ threads }) }));
  for (const step of missing) {
    const ofStep = rewards.filter((_, i) => images[i]?.step === step);
    known[step] = ofStep.reduce((sum, reward) => sum + reward, 0) / ofStep.length;
  }
  await writeFileAtomic(path, `${JSON.stringify(known, null, 2)}\n`);
  return known;
}
