/**
 * The trackers of a run: every one by its name, what they are told of each event, and what they keep in the run's folder
 * (`trackers.json`) to go on where they were.
 */
import { join } from "node:path";
import { z } from "zod";
import type { Settings, SettingsOf, TrackerName } from "../../config/index.js";
import { writeFileAtomic } from "../../io/atomic.js";
import { exists } from "../../io/files.js";
import { readJson } from "../../io/json.js";
import type { StepMetrics, TrainEvent } from "../../train/index.js";
import { readEvaluation, runFiles, samplesFolder } from "../record/index.js";
import { openMlflow } from "./mlflow.js";
import type { OutboxOptions } from "./outbox.js";
import { baseRow, stepRow, type TrackedRow } from "./row.js";
import { openTensorboard } from "./tensorboard.js";
import type { Outcome, Tracker, TrackerOptions } from "./tracker.js";
import { openWandb } from "./wandb.js";

/** Undefined where the environment switches it off. */
type Open<N extends TrackerName> = (
  settings: SettingsOf<N>,
  options: TrackerOptions,
  timing?: Partial<OutboxOptions>,
) => Promise<Tracker | undefined>;

/** Every tracker by its name. */
const TRACKERS: { readonly [N in TrackerName]: Open<N> } = {
  tensorboard: openTensorboard,
  mlflow: openMlflow,
  wandb: openWandb,
};

/** Of a run's folder, what trackers need to know. */
export interface WatchedRun {
  readonly settings: Settings;
  /** Known once training has started; that of a run that goes on is known before. */
  readonly path: string;
  /** Undefined for a new run. */
  readonly resumeFrom?: string | undefined;
  /** Once training has started: the rows up to the step that the run goes on from, and then all. */
  readonly metrics: readonly StepMetrics[];
}

export interface TrackersOptions {
  readonly warn: (message: string) => void;
  readonly tell: (message: string) => void;
  readonly env?: NodeJS.ProcessEnv;
  readonly timing?: Partial<OutboxOptions>;
}

export class Trackers {
  readonly #run: WatchedRun;
  readonly #open: ReadonlyMap<TrackerName, Tracker>;
  #started = false;
  #ended = false;

  private constructor(run: WatchedRun, open: ReadonlyMap<TrackerName, Tracker>) {
    this.#run = run;
    this.#open = open;
  }

  /** Before training starts: whatever is wrong with a tracker's settings is an InputError. */
  static async open(
    run: WatchedRun,
    { warn, tell, env = process.env, timing = {} }: TrackersOptions,
  ): Promise<Trackers> {
    const ledger = new Ledger(run, run.resumeFrom === undefined ? {} : await readLedger(run.path));
    const open = new Map<TrackerName, Tracker>();
    for (const settings of run.settings.trackers) {
      const { name } = settings;
      const kept = ledger.of(name);
      const keep = (value: object) => ledger.keep(name, value);
      // The table's entry of that name takes these settings.
      const opener = TRACKERS[name] as Open<TrackerName>;
      const tracker = await opener(settings, { warn, tell, env, kept, keep }, timing);
      if (tracker !== undefined) open.set(name, tracker);
    }
    return new Trackers(run, open);
  }

  /** After the run's folder: pictures are read from there. */
  readonly observe = async (event: TrainEvent): Promise<void> => {
    switch (event.kind) {
      case "started":
        return this.#start(event.step);
      case "evaluated":
        // Later ones belong to the row of their step.
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

  /** Where the run can be watched, by the trackers' names. */
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

  /** The first step whose row a tracker takes. */
  readonly #first = new Map<Tracker, number>();

  /** Rows that the run's folder has of steps up to the one that the run goes on from. */
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

const ledgerSchema = z.record(z.string(), z.unknown());

async function readLedger(run: string): Promise<Record<string, unknown>> {
  const path = join(run, runFiles.trackers);
  return (await exists(path)) ? readJson(path, ledgerSchema) : {};
}

/** What trackers keep. Written whole each time, one after another. */
class Ledger {
  readonly #run: WatchedRun;
  readonly #kept: Record<string, unknown>;
  #writing: Promise<void> = Promise.resolve();

  constructor(run: WatchedRun, kept: Record<string, unknown>) {
    this.#run = run;
    this.#kept = kept;
  }

  of(name: TrackerName): unknown {
    return this.#kept[name];
  }

  keep(name: TrackerName, value: object): Promise<void> {
    this.#kept[name] = value;
    this.#writing = this.#writing
      .catch(() => {})
      .then(() => writeFileAtomic(join(this.#run.path, runFiles.trackers), `${JSON.stringify(this.#kept, null, 2)}\n`));
    return this.#writing;
  }
}
