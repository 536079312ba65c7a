/** The record of a run, read from its folder for the report. */
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { loadSettings, type Settings } from "../../config/index.js";
import { type StepMetrics, type StopReason, verdict } from "../../train/index.js";
import { savedSteps } from "./checkpoints.js";
import { bestStep, readHistory } from "./history.js";
import { runFiles, samplesFolder } from "./layout.js";
import { readMetrics } from "./metrics.js";
import { type EvaluationRecord, readEvaluations, readSamples, type SampleEntry } from "./samples.js";

export interface RunRecord {
  readonly path: string;
  readonly settings: Settings;
  readonly metrics: readonly StepMetrics[];
  /** In the order of their steps. The first one is of the base model. */
  readonly evaluations: readonly EvaluationRecord[];
  /** Some of the evaluations with their images: the first, the last, and a few in between. */
  readonly shown: readonly ShownEvaluation[];
  readonly checkpoints: readonly number[];
  /** Step of the best checkpoint by the run's early-stop rule. */
  readonly best: number | undefined;
  /** Why early stopping ended the run; undefined if it did not. */
  readonly stopped: StopReason | undefined;
}

export interface ShownEvaluation {
  readonly step: number;
  readonly samples: readonly (Omit<SampleEntry, "file"> & { readonly png: string })[];
}

/** Limits the size of the report for long runs and many prompts. */
const MAX_SHOWN = { images: 24, evaluations: 8 };

export async function readRun(path: string): Promise<RunRecord> {
  const evaluations = await readEvaluations(path);
  const shown: ShownEvaluation[] = [];
  for (const { step } of evenly(evaluations, MAX_SHOWN.evaluations)) {
    const samples = [];
    for (const { file, ...entry } of (await readSamples(path, step)).slice(0, MAX_SHOWN.images)) {
      const png = await readFile(join(samplesFolder(path, step), basename(file)), "base64");
      samples.push({ ...entry, png });
    }
    shown.push({ step, samples });
  }
  const settings = await loadSettings({ recipe: join(path, runFiles.config) });
  const metrics = await readMetrics(path);
  const checkpoints = await savedSteps(path);
  const history = await readHistory(path, metrics);
  return {
    path,
    settings,
    metrics,
    evaluations,
    shown,
    checkpoints,
    best: bestStep(checkpoints, history, settings.early_stop),
    stopped: verdict(history, settings.early_stop).stop,
  };
}

/** At most `count` of the items, evenly spaced, with the first and the last. */
export function evenly<T>(items: readonly T[], count: number): T[] {
  if (items.length <= count) return [...items];
  return Array.from({ length: count }, (_, i) => items[Math.round((i * (items.length - 1)) / (count - 1))] as T);
}
