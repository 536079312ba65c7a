/**
 * The folder of a run. It listens to training and writes what happens:
 *
 *     config.yaml                 the settings, resolved in full
 *     metrics.jsonl               a row per step
 *     samples/step-000010/        the evaluation's pictures, index.json
 *     checkpoints/step-000010/    the adapter in two formats, and what resuming needs
 *     report.html                 all of it to look at
 *
 * Nothing is created before training has started, so bad input leaves nothing behind.
 */
import { constants } from "node:fs";
import { access, mkdir, readdir, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { stringify } from "yaml";
import { InputError } from "../tensor/errors.js";
import type { StepMetrics, TrainEvent } from "../train/events.js";
import { loadSettings, type Override } from "../train/load-settings.js";
import type { Settings } from "../train/settings.js";
import { writeFileAtomic } from "../weights/atomic.js";
import { asInputError } from "../weights/files.js";
import { writeFolderAtomic } from "./atomic-folder.js";
import { checkpointFolder, runFiles, samplesFolder, stepsIn } from "./layout.js";
import { appendMetrics, truncateMetrics } from "./metrics.js";
import { writeReport } from "./report.js";
import { writeSamples } from "./samples.js";

export class RunFolder {
  #path: string | undefined;
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

  /** Goes on with the run in `path` from its last checkpoint, with its own settings but for what may change. */
  static async resume(path: string, overrides: readonly Override[] = []): Promise<RunFolder> {
    const config = join(path, runFiles.config);
    if ((await stat(config).catch(() => undefined)) === undefined) {
      throw new InputError(`--resume ${path}: this is not a run's folder: it has no ${runFiles.config}`);
    }
    const saved = await loadSettings({ recipe: resolve(config) });
    const settings = { ...(await loadSettings({ recipe: resolve(config), overrides })), out: path };
    requireSameRun(saved, settings);
    const step = (await stepsIn(join(path, runFiles.checkpoints))).at(-1);
    if (step === undefined) {
      throw new InputError(
        `--resume ${path}: the run ended before its first checkpoint, so there is nothing to go on from; start it again`,
      );
    }
    if (step >= settings.train.updates) {
      throw new InputError(
        `--resume ${path}: the run has done all of its ${step} steps; for more, add --steps ${step * 2}`,
      );
    }
    return new RunFolder(settings, checkpointFolder(path, step), path);
  }

  /** Known once training has started. */
  get path(): string {
    if (this.#path === undefined) throw new Error("the run's folder is made when training starts");
    return this.#path;
  }

  get started(): boolean {
    return this.#path !== undefined;
  }

  get report(): string {
    return join(this.path, runFiles.report);
  }

  /** The checkpoint to use: the one with the best evaluation, or the last where none was evaluated. */
  async bestCheckpoint(): Promise<string | undefined> {
    const steps = await stepsIn(join(this.path, runFiles.checkpoints));
    const step = this.#bestOf(steps) ?? steps.at(-1);
    return step === undefined ? undefined : checkpointFolder(this.path, step);
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
        await writeFolderAtomic(checkpointFolder(this.path, event.step), async (folder) => {
          for (const [name, bytes] of event.files) await writeFile(join(folder, name), bytes);
        });
        await this.#dropOldCheckpoints();
        return writeReport(this.path);
      case "finished":
        return writeReport(this.path);
      case "warned":
        return;
    }
  };

  async #start(step: number): Promise<void> {
    const resumed = this.#path !== undefined;
    const path = this.#path ?? (await claim(this.settings));
    this.#path = path;
    await writeFileAtomic(join(path, runFiles.config), configText({ ...this.settings, out: path }));
    if (!resumed) await writeFileAtomic(join(path, runFiles.metrics), "");
    this.#rows = await truncateMetrics(path, step);
    for (const later of (await stepsIn(join(path, runFiles.samples))).filter((sampled) => sampled > step)) {
      await rm(samplesFolder(path, later), { recursive: true });
    }
  }

  async #dropOldCheckpoints(): Promise<void> {
    const { keep_last, keep_best } = this.settings.checkpoint;
    const steps = await stepsIn(join(this.path, runFiles.checkpoints));
    const kept = new Set(steps.slice(-keep_last));
    const best = this.#bestOf(steps);
    if (keep_best && best !== undefined) kept.add(best);
    for (const step of steps.filter((saved) => !kept.has(saved))) {
      await rm(checkpointFolder(this.path, step), { recursive: true });
    }
  }

  /** Of `steps`, the one whose evaluation had the highest mean reward. */
  #bestOf(steps: readonly number[]): number | undefined {
    const evaluated = this.#rows.filter((row) => row.eval_reward_mean !== undefined && steps.includes(row.step));
    return evaluated.reduce<StepMetrics | undefined>(
      (best, row) => ((row.eval_reward_mean ?? 0) > (best?.eval_reward_mean ?? -Infinity) ? row : best),
      undefined,
    )?.step;
  }
}

export function configText(settings: Settings): string {
  return `# The settings of this run, resolved in full; \`alignprop train config.yaml --out NEW\` repeats it.\n${stringify(settings, { lineWidth: 0 })}`;
}

/** What a run may change when it goes on: how long, how often and on what, but not what is learnt. */
const mayChange = ["train", "checkpoint", "evaluation.every", "device", "threads", "out"];

function requireSameRun(saved: Settings, wanted: Settings): void {
  const before = leaves(saved);
  const changed = [...leaves(wanted)].filter(([key, value]) => before.get(key) !== value && !isFree(key));
  if (changed.length === 0) return;
  const list = changed.map(([key, value]) => `${key} (${before.get(key) ?? "not set"} → ${value})`).join(", ");
  throw new InputError(
    `--resume: a run goes on with its own settings, but these differ: ${list}. ` +
      `Leave them out, or start a new run; only ${mayChange.join(", ")} may change`,
  );
}

function isFree(key: string): boolean {
  return mayChange.some((free) => key === free || key.startsWith(`${free}.`));
}

/** Every setting that is not a mapping, by its dotted path, as JSON. */
export function leaves(settings: object, prefix = ""): Map<string, string> {
  const found = new Map<string, string>();
  for (const [key, value] of Object.entries(settings)) {
    if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      for (const [inner, leaf] of leaves(value, `${prefix}${key}.`)) found.set(inner, leaf);
    } else found.set(prefix + key, JSON.stringify(value));
  }
  return found;
}

/** For runs and for `--out` of other commands: a folder that holds nothing yet, or that is not there yet. */
export async function requireEmpty(path: string): Promise<void> {
  const info = await stat(path).catch(() => undefined);
  if (info === undefined) return;
  if (!info.isDirectory()) throw new InputError(`--out ${path}: this is a file; name a folder that can be made`);
  const names = await readdir(path);
  if (names.length === 0) return;
  const resume = names.includes(runFiles.config) ? `, or go on with this run: --resume ${path}` : "";
  throw new InputError(
    `--out ${path}: the folder is not empty (${names.length} entries, such as ${names[0]}); name another${resume}`,
  );
}

/** The nearest folder above that exists must take new files. */
export async function requireWritable(path: string): Promise<void> {
  let folder = resolve(path);
  let info = await stat(folder).catch(() => undefined);
  while (info === undefined && dirname(folder) !== folder) {
    folder = dirname(folder);
    info = await stat(folder).catch(() => undefined);
  }
  if (info?.isDirectory() === false) throw new InputError(`--out ${path}: ${folder} is a file, not a folder`);
  try {
    await access(folder, constants.W_OK);
  } catch (error) {
    throw new InputError(`--out ${path}: no permission to write in ${folder}; name another folder`, { cause: error });
  }
}

/** Makes the folder: `settings.out`, or the first free `runs/<name>-<n>`, also when two runs start at once. */
async function claim(settings: Settings): Promise<string> {
  try {
    if (settings.out !== null) {
      await mkdir(settings.out, { recursive: true });
      await requireEmpty(settings.out);
      return settings.out;
    }
    await mkdir("runs", { recursive: true });
    for (let n = 1; ; n++) {
      const path = join("runs", `${settings.name}-${n}`);
      const taken = await mkdir(path).then(
        () => false,
        (error: NodeJS.ErrnoException) => {
          if (error.code === "EEXIST") return true;
          throw error;
        },
      );
      if (!taken) return path;
    }
  } catch (error) {
    throw asInputError(error, settings.out ?? "runs", "write");
  }
}
