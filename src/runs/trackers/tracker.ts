/** The contract of a tracker. Each is one file of this folder, listed in the table of `trackers.ts`. */
import type { Settings } from "../../config/index.js";
import type { TrackedRow } from "./row.js";

/** How a run ended. An interrupted run is `stopped`, and can be resumed. */
export type Outcome = "finished" | "stopped" | "failed";

export interface TrackedRun {
  /** The run's folder, which exists. */
  readonly path: string;
  readonly settings: Settings;
  /** The step that the run resumes from; 0 for a new run. */
  readonly step: number;
}

export interface TrackerOptions {
  /** Called with a warning the first time that something fails. */
  readonly warn: (message: string) => void;
  /** Called with the address of the run. */
  readonly tell: (message: string) => void;
  /** Environment variables with addresses and keys, under the names that the official clients use. */
  readonly env: NodeJS.ProcessEnv;
  /** The state that this tracker saved last for this run; undefined if there is none. */
  readonly saved: unknown;
  /** Saves the tracker's state in the run's folder. */
  readonly save: (state: object) => Promise<void>;
}

/**
 * Logs a run. A tracker is opened before training starts, and wrong settings are an InputError then. Later its failures
 * never stop the run: it sends in the background and warns once.
 */
export interface Tracker {
  /** Returns the first step whose row it needs, because it may have logged the earlier steps of a resumed run. */
  start(run: TrackedRun): Promise<number>;
  /** Called once per step, in order. */
  row(row: TrackedRow): Promise<void>;
  end(outcome: Outcome): Promise<void>;
  /** The link or folder that shows the run; undefined until it is known. */
  readonly place: string | undefined;
}
