/**
 * The trackers of a run. Sends them the rows of each event, and saves their states in `trackers.json` in the run's
 * folder, so that a resumed run continues in the same place.
 */

import { join } from "node:path";
import { z } from "zod";
import type { SettingsOf, TrackerName } from "../../config/index.js";
import { writeFileAtomic } from "../../io/atomic.js";
import { exists } from "../../io/files.js";
import { readJson } from "../../io/json.js";
import type { StepMetrics, TrainEvent } from "../../train/index.js";
import { readEvaluation, runFiles, samplesFolder } from "../record/index.js";
import { openMlflow } from "./mlflow.js";
import type { OutboxOptions } from "./outbox.js";
import { baseRow, stepRow, type TrackedRow } from "./row.js";
import { openTensorboard } from "./tensorboard.js";
import type { Outcome, TrackedRun, Tracker, TrackerOptions } from "./tracker.js";
import { openWandb } from "./wandb.js";

/** Returns undefined if the environment disables the tracker. */
type Open<N extends TrackerName> = (
  settings: SettingsOf<N>,
  options: TrackerOptions,
  timing?: Partial<OutboxOptions>,
) => Promise<Tracker | undefined>;

const TRACKERS: { readonly [N in TrackerName]: Open<N> } = {
  tensorboard: openTensorboard,
  mlflow: openMlflow,
  wandb: openWandb,
};

/** The part of a `RunFolder` that trackers use. */
export interface RunSource {
  readonly settings: TrackedRun["settings"];
  /** The run's folder. For a new run, it may be read only after training has started. */
  readonly path: string;
  /** Undefined for a new run. */
  readonly resumeFrom?: string | undefined;
  /** All rows so far. When training starts, those up to the step that the run resumes from. */
  readonly metrics: readonly StepMetrics[];
}

export interface TrackersOptions {
  readonly warn: (message: string) => void;
  readonly tell: (message: string) => void;
  readonly env?: NodeJS.ProcessEnv;
  readonly timing?: Partial<OutboxOptions>;
}

export class Trackers {
  readonly #run: RunSource;
  readonly #open: ReadonlyMap<TrackerName, Tracker>;
  #started = false;
  #ended = false;

  private constructor(run: RunSource, open: ReadonlyMap<TrackerName, Tracker>) {
    this.#run = run;
    this.#open = open;
  }

  /**
   * Opens the trackers of `run.settings`, before training starts.
   *
   * @throws InputError if a tracker's settings are wrong or its server does not accept the run
   */
  static async open(
    run: RunSource,
    { warn, tell, env = process.env, timing = {} }: TrackersOptions,
  ): Promise<Trackers> {
    const states = new TrackerStates(run, run.resumeFrom === undefined ? {} : await readStates(run.path));
    const open = new Map<TrackerName, Tracker>();
    for (const settings of run.settings.trackers) {
      const { name } = settings;
      const saved = states.of(name);
      const save = (state: object) => states.save(name, state);
      // TypeScript cannot see that the entry of this name takes these settings.
      const opener = TRACKERS[name] as Open<TrackerName>;
      const tracker = await opener(settings, { warn, tell, env, saved, save }, timing);
      if (tracker !== undefined) open.set(name, tracker);
    }
    return new Trackers(run, open);
  }

  /** Call it after the event is recorded in the run's folder, because the images are read from there. */
  readonly observe = async (event: TrainEvent): Promise<void> => {
    switch (event.kind) {
      case "started":
        return this.#start(event.step);
      case "evaluated":
        // A later evaluation is part of the row of its step.
        if (event.step === 0) await this.#each(await baseRow(this.#run.path, event.result));
        return;
      case "stepped":
        return this.#each(await stepRow(this.#run.path, event.metrics));
      case "finished":
        return this.end(event.result.interrupted ? "stopped" : "finished");
      case "checkpointed":
      case "warned":
        return;
    }
  };

  async end(outcome: Outcome): Promise<void> {
    if (!this.#started || this.#ended) return;
    this.#ended = true;
    await Promise.all([...this.#open.values()].map((tracker) => tracker.end(outcome)));
  }

  /** The links or folders that show the run, by the trackers' names. */
  get places(): Readonly<Record<string, string>> {
    const known = [...this.#open].flatMap(([name, { place }]) => (place === undefined ? [] : [[name, place] as const]));
    return Object.fromEntries(known);
  }

  async #start(step: number): Promise<void> {
    const { path, settings } = this.#run;
    this.#started = true;
    for (const tracker of this.#open.values()) {
      const first = await tracker.start({ path, settings, step });
      for await (const row of this.#rowsFrom(first, step)) await tracker.row(row);
      this.#first.set(tracker, first);
    }
  }

  /** The first step whose row a tracker needs. */
  readonly #first = new Map<Tracker, number>();

  /** Rows in the run's folder from step `first` up to `step`, which the run resumes from. */
  async *#rowsFrom(first: number, step: number): AsyncGenerator<TrackedRow> {
    const { path, metrics } = this.#run;
    if (step > 0 && first === 0 && (await exists(samplesFolder(path, 0)))) {
      yield baseRow(path, await readEvaluation(path, 0));
    }
    for (const row of metrics) if (row.step >= first && row.step <= step) yield stepRow(path, row);
  }

  async #each(row: TrackedRow): Promise<void> {
    for (const [tracker, first] of this.#first) if (row.step >= first) await tracker.row(row);
  }
}

const statesSchema = z.record(z.string(), z.unknown());

async function readStates(run: string): Promise<Record<string, unknown>> {
  const path = join(run, runFiles.trackers);
  return (await exists(path)) ? readJson(path, statesSchema) : {};
}

/** The saved states of all trackers. Writes are queued, and each one replaces the whole file. */
class TrackerStates {
  readonly #run: RunSource;
  readonly #states: Record<string, unknown>;
  #writing: Promise<void> = Promise.resolve();

  constructor(run: RunSource, states: Record<string, unknown>) {
    this.#run = run;
    this.#states = states;
  }

  of(name: TrackerName): unknown {
    return this.#states[name];
  }

  save(name: TrackerName, state: object): Promise<void> {
    this.#states[name] = state;
    this.#writing = this.#writing
      .catch(() => {})
      .then(() =>
        writeFileAtomic(join(this.#run.path, runFiles.trackers), `${JSON.stringify(this.#states, null, 2)}\n`),
      );
    return this.#writing;
  }
}
