/**
 * The folder of a run. It listens to training and writes what happens:
 *
 *     config.yaml                 the settings, resolved in full
 *     metrics.jsonl               a row per step
 *     samples/step-000010/        the evaluation's pictures, index.json
 *     checkpoints/step-000010/    the adapter in two formats, and what resuming needs; at the end a model card with pictures
 *     report.html                 all of it to look at
 *
 * Nothing is created before training has started, so bad input leaves nothing behind.
 */
import { rm, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { loadSettings, type Override, type Settings } from "../config/index.js";
import { InputError } from "../errors/index.js";
import { writeFileAtomic } from "../io/atomic.js";
import { removeUnfinished } from "../io/atomic-folder.js";
import { type StepMetrics, type TrainEvent, verdict } from "../train/index.js";
import { writeModelCard } from "./publish/index.js";
import {
  appendMetrics,
  checkpointFolder,
  configText,
  dropOldCheckpoints,
  finalSteps,
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
    /** The checkpoint's folder that the run goes on from. */
    readonly resumeFrom?: string,
    path?: string,
  ) {
    this.#path = path;
  }

  /** A new run. Checks that `settings.out` can take it; writes nothing yet. */
  static async plan(settings: Settings): Promise<RunFolder> {
    if (settings.out !== null) await requireEmpty(settings.out);
    await requireWritable(settings.out ?? "runs");
    return new RunFolder(settings);
  }

  /** A run whose folder another process writes. */
  static elsewhere(settings: Settings): RunFolder {
    return new RunFolder(settings);
  }

  /** Goes on with the run in `path` from its last checkpoint, with its own settings but for what may change. */
  static async resume(path: string, overrides: readonly Override[] = []): Promise<RunFolder> {
    const config = join(path, runFiles.config);
    if ((await stat(config).catch(() => undefined)) === undefined) {
      throw new InputError(
        "output-unwritable",
        `--resume ${path}: this is not a run's folder: it has no ${runFiles.config}`,
      );
    }
    const settings = { ...(await loadSettings({ recipe: resolve(config), overrides })), out: path };
    const step = (await savedSteps(path)).at(-1);
    if (step === undefined) {
      throw new InputError(
        "output-unwritable",
        `--resume ${path}: the run ended before its first checkpoint, so there is nothing to go on from; start it again`,
      );
    }
    if (step >= settings.train.steps) {
      throw new InputError(
        "output-unwritable",
        `--resume ${path}: the run has done all of its ${step} steps; for more, add --steps ${step * 2}`,
      );
    }
    const rows = (await readMetrics(path)).filter((row) => row.step <= step);
    const { stop } = verdict(await readHistory(path, rows), settings.early_stop);
    if (stop) {
      throw new InputError(
        "output-unwritable",
        `--resume ${path}: its early_stop ended the run: ${stopText(stop, settings)}. To go on all the same, add --set early_stop=null, or another rule`,
      );
    }
    return new RunFolder(settings, checkpointFolder(path, step), path);
  }

  /** Known once training has started. */
  get path(): string {
    if (this.#path === undefined) throw new Error("the run's folder is made when training starts");
    return this.#path;
  }

  /** Whether there is anything of this run in its folder. */
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
