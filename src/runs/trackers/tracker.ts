/** What a tracker is: one file of this folder each, named in the table of `trackers.ts`. */
import type { Settings } from "../../config/index.js";
import type { TrackedRow } from "./row.js";

/** How a run came to its end. An interrupted one is `stopped`: it can go on. */
export type Outcome = "finished" | "stopped" | "failed";

export interface TrackedRun {
  /** The run's folder, which is there. */
  readonly path: string;
  readonly settings: Settings;
  /** That it goes on from; 0 for a new run. */
  readonly step: number;
}

export interface TrackerOptions {
  /** Told once what goes wrong, in words. */
  readonly warn: (message: string) => void;
  /** Told where the run can be watched. */
  readonly tell: (message: string) => void;
  /** Where addresses and keys come from, under the names that the services' own tools read. */
  readonly env: NodeJS.ProcessEnv;
  /** What this tracker kept with `keep` when the run was last going on. */
  readonly kept: unknown;
  readonly keep: (value: object) => Promise<void>;
}

/**
 * Opened before training starts, when whatever is wrong with its settings is an InputError. After that nothing that happens to it
 * may stop the run: a tracker of a service sends in the background and says once that something is amiss.
 */
export interface Tracker {
  /** Gives the first step whose row it wants: it may have some of a run that goes on. */
  start(run: TrackedRun): Promise<number>;
  /** One row a step, in order. */
  row(row: TrackedRow): Promise<void>;
  end(outcome: Outcome): Promise<void>;
  /** Where the run can be watched: a link or a folder, once it is known. */
  readonly place: string | undefined;
}
