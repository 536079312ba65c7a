/** Training as one call: it writes a run folder, reports progress, and returns the trained adapter and the evaluations. */
import type { Settings } from "../config/index.js";
import {
  observers,
  type PartsInCode,
  type StepMetrics,
  type TrainObserver,
  type TrainOptions,
  type TrainResult,
  withLossInCode,
  withPartsInCode,
} from "../train/index.js";
import { loadRun, type SavedRun } from "./load-run.js";
import { Pace } from "./pace.js";
import { RunFolder } from "./run-folder.js";
import { withStart } from "./start.js";
import { trainInFolder } from "./train-folder.js";

export interface TrainRunOptions extends PartsInCode, Pick<TrainOptions, "signal" | "onFetch"> {
  /** Called after each step. Training goes on when it returns. */
  readonly onProgress?: ((progress: TrainProgress) => void | Promise<void>) | undefined;
  /** Called with each warning, such as a prompt that is too long. */
  readonly warn?: ((message: string) => void) | undefined;
  /** Called with each event, after the folder has it (see `TrainEvent`). */
  readonly observer?: TrainObserver | undefined;
}

export interface NewRunOptions extends TrainRunOptions {
  /** The run folder, which is created. Default: `out` of the settings, or the first free `runs/<name>-<n>`. */
  readonly out?: string | undefined;
}

export interface ResumeOptions extends TrainRunOptions {
  /** Train until this step. Default: as many steps as the run was started with. */
  readonly steps?: number | undefined;
}

export interface TrainProgress {
  /** Steps done. */
  readonly step: number;
  /** Steps of the whole run. */
  readonly steps: number;
  /** Mean reward of the step's samples. */
  readonly reward: number;
  /** Mean reward of the evaluation images; undefined if this step did not evaluate. */
  readonly evaluationReward?: number | undefined;
  /** Estimated time until the last step, in seconds. */
  readonly secondsLeft: number;
  /** Everything that was measured in this step. */
  readonly metrics: StepMetrics;
}

/** A finished or interrupted run. `step` and `steps` tell how far it came. */
export interface TrainedRun extends SavedRun, Omit<TrainResult, "best"> {}

/**
 * Trains a model on a reward, and writes a run folder as `alignprop train` does:
 *
 *     config.yaml                 the resolved settings
 *     metrics.jsonl               one row per step
 *     samples/step-000010/        the images of an evaluation, with their prompts, seeds and rewards in index.json
 *     checkpoints/step-000010/    the adapter in two formats, and the state that `resumeRun` needs
 *     report.html                 charts and images
 *
 * A reward made in code is maximized, unless `settings.loss` differs from the default of the reward in the settings. When
 * `signal` is aborted, the current step is finished and saved, and `interrupted` is true in the result. For training with
 * several ranks use `train`, or the command line.
 *
 * @throws InputError for anything that the user can correct: `output-exists` or `output-unwritable` if the folder cannot be
 * written, `memory-too-small`, `not-finite` if training diverges, …
 * @example
 * const settings = await loadSettings({ recipe: "default" });
 * const run = await trainRun(settings, {
 *   reward: defineReward({ name: "red", build: (images) => ops.mean(ops.slice(images, 1, [0, 1]), [1, 2, 3]) }),
 *   onProgress: ({ step, steps, reward }) => console.log(`${step}/${steps}: ${reward}`),
 * });
 * console.log(run.folder, run.evaluation?.mean);
 */
export async function trainRun(settings: Settings, { out, ...options }: NewRunOptions = {}): Promise<TrainedRun> {
  const started = await withStart(out === undefined ? settings : { ...settings, out });
  const own = withPartsInCode(withLossInCode(started, options), options);
  return await trainIn(await RunFolder.plan(own), options);
}

/**
 * Resumes a run from its last checkpoint, with the settings in its folder. The result is the same as if the run had never
 * stopped. If its reward or estimator was made in code, pass the same one again: only its name and weights can be compared.
 *
 * @throws InputError `run-not-found`, `run-finished` or `run-incomplete` if there is nothing to resume, and `run-mismatch` if
 * the model, the reward or the estimator is another one
 * @example
 * const run = await resumeRun("runs/default-1", { steps: 40 });
 */
export async function resumeRun(folder: string, { steps, ...options }: ResumeOptions = {}): Promise<TrainedRun> {
  const changes = steps === undefined ? [] : [{ path: ["train", "steps"], value: steps, origin: `steps: ${steps}` }];
  return await trainIn(await RunFolder.resume(folder, changes), options);
}

async function trainIn(
  run: RunFolder,
  { onProgress = () => {}, warn = () => {}, observer = () => {}, ...options }: TrainRunOptions,
): Promise<TrainedRun> {
  const all = observers(progressObserver(onProgress), observer, (event) => {
    if (event.kind === "warned") warn(event.message);
  });
  const { result } = await trainInFolder(run, { ...options, warn, observer: all });
  const { best: _, ...ended } = result;
  return { ...(await loadRun(run.path)), ...ended };
}

/** Calls `onProgress` after each step. */
function progressObserver(onProgress: (progress: TrainProgress) => void | Promise<void>): TrainObserver {
  let steps = 0;
  let pace = new Pace();
  return async (event) => {
    if (event.kind === "started") {
      steps = event.plan.steps;
      pace = new Pace();
    }
    if (event.kind !== "stepped") return;
    const { metrics } = event;
    const { step, reward_mean: reward, eval_reward_mean: evaluationReward } = metrics;
    pace.add(metrics.seconds);
    await onProgress({ step, steps, reward, evaluationReward, secondsLeft: pace.remaining(steps - step), metrics });
  };
}
