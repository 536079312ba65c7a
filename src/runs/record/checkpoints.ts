/** Checkpoints of a run, `checkpoints/step-000010/`: writes them, deletes old ones, and opens the weights in them. */

import { mkdir, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { type EarlyStopSettings, loadSettings, type SettingsPart } from "../../config/index.js";
import { InputError } from "../../errors/index.js";
import { writeFolderAtomic } from "../../io/atomic-folder.js";
import type { FileContent } from "../../io/files.js";
import type { EvaluationSummary } from "../../train/index.js";
import { bestStep, readHistory } from "./history.js";
import { checkpointFolder, runFiles, stepsIn } from "./layout.js";
import { readMetrics } from "./metrics.js";

export function savedSteps(run: string): Promise<number[]> {
  return stepsIn(join(run, runFiles.checkpoints));
}

export async function writeCheckpoint(
  run: string,
  step: number,
  files: ReadonlyMap<string, FileContent>,
): Promise<void> {
  await writeFolderAtomic(checkpointFolder(run, step), async (folder) => {
    for (const [name, content] of files) {
      await mkdir(dirname(join(folder, name)), { recursive: true });
      await writeFile(join(folder, name), content);
    }
  });
}

/** Keeps the last `keep_last` checkpoints and, with `keep_best`, the best one by the run's early-stop rule. */
export async function dropOldCheckpoints(
  run: string,
  { checkpoint: { keep_last, keep_best }, early_stop: rule }: SettingsPart<"checkpoint" | "early_stop">,
  history: readonly EvaluationSummary[],
): Promise<void> {
  const steps = await savedSteps(run);
  const kept = new Set(steps.slice(-keep_last));
  const best = bestStep(steps, history, rule);
  if (keep_best && best !== undefined) kept.add(best);
  for (const step of steps.filter((saved) => !kept.has(saved))) {
    await rm(checkpointFolder(run, step), { recursive: true });
  }
}

/** The checkpoints that get a model card at the end of a run: the best and the last. */
export function finalSteps(
  steps: readonly number[],
  history: readonly EvaluationSummary[],
  rule: EarlyStopSettings | null,
): number[] {
  const chosen = [bestStep(steps, history, rule), steps.at(-1)].filter((step) => step !== undefined);
  return [...new Set(chosen)];
}

/**
 * Resolves the path of a run's folder to its best checkpoint, or to its last one if none was evaluated. Returns any
 * other path unchanged.
 *
 * @throws InputError `run-incomplete` if the run has no checkpoint
 */
export async function adapterPath(path: string): Promise<string> {
  if (!(await isRun(path))) return path;
  const steps = await savedSteps(path);
  const { early_stop: rule } = await loadSettings({ recipe: resolve(path, runFiles.config) });
  const step = bestStep(steps, await readHistory(path, await readMetrics(path)), rule) ?? steps.at(-1);
  if (step === undefined) {
    throw new InputError(
      "run-incomplete",
      `${path}: this run has no checkpoint yet, so there is no adapter to use. Wait for its first checkpoint, or give another adapter.`,
      { path },
    );
  }
  return checkpointFolder(path, step);
}

export async function isRun(path: string): Promise<boolean> {
  return (await stat(join(path, runFiles.config)).catch(() => undefined))?.isFile() === true;
}
