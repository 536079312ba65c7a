/** What the main thread and the thread that calls MPI say to each other, and what ends a run early. */

export interface WorkerData {
  /** Of libraries to try, in order. */
  readonly libraries: readonly string[];
  /** Seconds without a word from a rank after which it counts as lost. */
  readonly limit: number;
}

export type Request =
  /** The first `count` numbers of `scratch` become their sums over all ranks. */
  | { readonly kind: "sum"; readonly scratch: Float64Array; readonly count: number; readonly door: Door }
  | { readonly kind: "gather"; readonly own: Uint8Array; readonly everywhere: boolean; readonly door: Door }
  /** Rank 0's bytes come back. */
  | { readonly kind: "broadcast"; readonly own: Uint8Array; readonly door: Door }
  | { readonly kind: "barrier"; readonly door: Door }
  /** Tell the others how the run ends. Has no answer. */
  | { readonly kind: "end"; readonly ending: Ending }
  /** Leave MPI, after a barrier or an early end (`Peers.leave`). */
  | { readonly kind: "close"; readonly exitCode: number; readonly early: boolean };

/** Before a collective operation all ranks meet: see `Peers.meet`. */
export interface Door {
  /** What comes next, which must be the same on all ranks. */
  readonly what: string;
  /** Wait however long it takes for those that are alive. */
  readonly patient: boolean;
}

export type Reply =
  | {
      readonly kind: "ready";
      readonly rank: number;
      readonly size: number;
      /** Of each rank. */
      readonly hosts: readonly string[];
      readonly version: string;
    }
  /** None of the libraries could be loaded. */
  | { readonly kind: "missing"; readonly reasons: readonly string[] }
  | { readonly kind: "done"; readonly id: number; readonly result: unknown }
  | { readonly kind: "failed"; readonly id: number; readonly error: string }
  /** The run is to end early. Comes once. */
  | { readonly kind: "ended"; readonly ending: Ending };

/** Why a run ends early; the first reason that rank 0 learns of is everyone's. */
export type Ending =
  | { readonly kind: "stopped" }
  /** A rank reports an error of its own. `input`: an `InputError`. */
  | { readonly kind: "error"; readonly rank: number; readonly message: string; readonly input: boolean }
  /** Ranks of which nothing was heard for so many seconds. */
  | { readonly kind: "silent"; readonly ranks: readonly number[]; readonly seconds: number }
  /** Ranks that live but have not come where the others have waited for so many seconds. */
  | { readonly kind: "late"; readonly ranks: readonly number[]; readonly seconds: number; readonly what: string }
  /** Ranks that do not do the same thing. */
  | { readonly kind: "apart"; readonly rank: number; readonly what: string; readonly others: string };
