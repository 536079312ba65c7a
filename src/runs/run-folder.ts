/**
 * The folder of a run. It observes training and records it:
 *
 *     config.yaml                 the resolved settings
 *     metrics.jsonl               one row per training step
 *     samples/step-000010/        the images of an evaluation, and index.json
 *     checkpoints/step-000010/    the adapter in two formats and the training state; at the end of the run, a model card
 *     report.html                 all of it on one page
 *
 * Nothing is created before training starts, so bad input leaves no files behind.
 */
import { readdir, rm, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { loadSettings, type Override, type Settings } from "../config/index.js";
import { InputError, nearest } from "../errors/index.js";
import { writeFileAtomic } from "../io/atomic.js";
import { removeUnfinished } from "../io/atomic-folder.js";
import { type StepMetrics, type TrainEvent, verdict } from "../train/index.js";
import { look } from "../weights/look/look.js";
import { writeModelCard } from "./publish/index.js";
import {
  appendMetrics,
  checkpointFolder,
  configText,
  dropOldCheckpoints,
  finalSteps,
  isRun,
  makeRunFolder,
  readHistory,
  readMetrics,
  requireEmpty,
  requireWritable,
  runFiles,
  samplesFolder,
  savedSteps,
  stepsIn,
  truncateMetrics,
  writeCheckpoint,
  writeSamples,
} from "./record/index.js";
import { stopText, writeReport } from "./report/index.js";

export class RunFolder {
  #path: string | undefined;
  #started = false;
  #rows: StepMetrics[] = [];

  private constructor(
    readonly settings: Settings,
    /** Folder of the checkpoint that the run resumes from; undefined for a new run. */
    readonly resumeFrom?: string,
    path?: string,
  ) {
    this.#path = path;
  }

  /**
   * A new run. Writes nothing yet.
   *
   * @throws InputError `output-exists` or `output-unwritable` if the run cannot be written to `settings.out`
   */
  static async plan(settings: Settings): Promise<RunFolder> {
    if (settings.out !== null) await requireEmpty(settings.out);
    await requireWritable(settings.out ?? "runs");
    return new RunFolder(settings);
  }

  /** A run whose folder is written by rank 0, for the other ranks. */
  static elsewhere(settings: Settings): RunFolder {
    return new RunFolder(settings);
  }

  /**
   * Resumes the run in `path` from its last checkpoint, with the run's own settings and `overrides` on top.
   *
   * @throws InputError `run-not-found`, `run-incomplete` without a checkpoint, or `run-finished`
   */
  static async resume(
    path: string,
    overrides: readonly Override[] = [],
    warn?: (message: string) => void,
  ): Promise<RunFolder> {
    const config = join(path, runFiles.config);
    if ((await stat(config).catch(() => undefined)) === undefined) {
      const found = await look(path);
      if (found.kind === "missing") {
        const near = nearest(path, await runsBeside(path));
        throw new InputError(
          "run-not-found",
          `--resume ${path}: there is no such folder.${near === undefined ? " Give the folder of a run." : ` Did you mean ${near}?`}`,
          { option: "--resume", path, found: "missing", suggestion: near },
        );
      }
      throw new InputError(
        "run-not-found",
        `--resume ${path}: this is ${found.what}, not a run's folder, because it has no ${runFiles.config}. Give the folder of a run.`,
        { option: "--resume", path, expected: runFiles.config, found: found.kind },
      );
    }
    const settings = { ...(await loadSettings({ recipe: resolve(config), overrides, warn })), out: path };
    const step = (await savedSteps(path)).at(-1);
    if (step === undefined) {
      throw new InputError(
        "run-incomplete",
        `--resume ${path}: the run ended before its first checkpoint, so it cannot be resumed. Start a new run.`,
        { option: "--resume", path },
      );
    }
    if (step >= settings.train.steps) {
      const suggestion = `--steps ${step * 2}`;
      throw new InputError(
        "run-finished",
        `--resume ${path}: all ${settings.train.steps} steps are done. To train further, add ${suggestion}.`,
        { option: "--resume", path, step, steps: settings.train.steps, suggestion },
      );
    }
    const rows = (await readMetrics(path)).filter((row) => row.step <= step);
    const { stop } = verdict(await readHistory(path, rows), settings.early_stop);
    if (stop) {
      const suggestion = "--set early_stop=null";
      throw new InputError(
        "run-finished",
        `--resume ${path}: early_stop ended the run: ${stopText(stop, settings)}. To train further, add ${suggestion} or set another rule.`,
        { option: "--resume", path, step, setting: "early_stop", reason: stop.kind, suggestion },
      );
    }
    return new RunFolder(settings, checkpointFolder(path, step), path);
  }

  /** Available once training has started, or if the run is resumed. */
  get path(): string {
    if (this.#path === undefined) throw new Error("the run's folder is created when training starts");
    return this.#path;
  }

  /** True once the "started" event has been handled, so that the folder has content of this run. */
  get started(): boolean {
    return this.#started;
  }

  get metrics(): readonly StepMetrics[] {
    return this.#rows;
  }

  get report(): string {
    return join(this.path, runFiles.report);
  }

  readonly observe = async (event: TrainEvent): Promise<void> => {
    switch (event.kind) {
      case "started":
        return this.#start(event.step);
      case "evaluated":
        return writeSamples(this.path, event.step, event.result);
      case "stepped":
        this.#rows.push(event.metrics);
        return appendMetrics(this.path, event.metrics);
      case "checkpointed":
        await writeCheckpoint(this.path, event.step, event.files);
        await dropOldCheckpoints(this.path, this.settings, await readHistory(this.path, this.#rows));
        return writeReport(this.path);
      case "finished": {
        const history = await readHistory(this.path, this.#rows);
        const steps = finalSteps(await savedSteps(this.path), history, this.settings.early_stop);
        for (const step of steps) await writeModelCard(this.path, step);
        return writeReport(this.path);
      }
      case "warned":
        return;
    }
  };

  async #start(step: number): Promise<void> {
    const path = this.#path ?? (await makeRunFolder(this.settings));
    this.#path = path;
    await writeFileAtomic(join(path, runFiles.config), configText({ ...this.settings, out: path }));
    if (step === 0) await writeFileAtomic(join(path, runFiles.metrics), "");
    this.#rows = await truncateMetrics(path, step);
    for (const parent of ["", runFiles.samples, runFiles.checkpoints]) await removeUnfinished(join(path, parent));
    for (const later of (await stepsIn(join(path, runFiles.samples))).filter((sampled) => sampled > step)) {
      await rm(samplesFolder(path, later), { recursive: true });
    }
    this.#started = true;
  }
}

/** The folders of runs beside a path. */
async function runsBeside(path: string): Promise<string[]> {
  const parent = dirname(path);
  const names = await readdir(parent).catch(() => []);
  const found: string[] = [];
  for (const name of names) if (await isRun(join(parent, name))) found.push(join(parent, name));
  return found;
}
