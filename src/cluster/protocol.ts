/** Messages between the main thread and the thread that calls MPI, and the reasons why a run ends early. */
import type { ErrorCode, ErrorFacts } from "../errors/index.js";

export interface WorkerData {
  /** Libraries to try, in order. */
  readonly libraries: readonly string[];
  /** Seconds without a message from a rank after which it counts as lost. */
  readonly limit: number;
}

export type Request =
  /** Replaces the first `count` numbers of `scratch` by their sums over all ranks. */
  | { readonly kind: "sum"; readonly scratch: Float64Array; readonly count: number; readonly meeting: Meeting }
  | { readonly kind: "gather"; readonly own: Uint8Array; readonly everywhere: boolean; readonly meeting: Meeting }
  /** Returns rank 0's bytes. */
  | { readonly kind: "broadcast"; readonly own: Uint8Array; readonly meeting: Meeting }
  | { readonly kind: "barrier"; readonly meeting: Meeting }
  /** Tells the other ranks why the run ends. Has no reply. */
  | { readonly kind: "end"; readonly ending: Ending }
  /** Leaves MPI, after a barrier or after an early end (`Peers.leave`). */
  | { readonly kind: "close"; readonly exitCode: number; readonly early: boolean };

/** All ranks meet before each collective operation: see `Peers.meet`. */
export interface Meeting {
  /** The operation that follows. Must be the same on all ranks. */
  readonly operation: string;
  /** Wait for the other ranks as long as they are alive. */
  readonly patient: boolean;
}

export type Reply =
  | {
      readonly kind: "ready";
      readonly rank: number;
      readonly size: number;
      /** The host name of each rank. */
      readonly hosts: readonly string[];
      readonly version: string;
    }
  /** None of the libraries could be loaded. */
  | { readonly kind: "missing"; readonly reasons: readonly string[] }
  | { readonly kind: "done"; readonly id: number; readonly result: unknown }
  | { readonly kind: "failed"; readonly id: number; readonly error: string }
  /** The run ends early. Sent at most once. */
  | { readonly kind: "ended"; readonly ending: Ending };

/** Why a run ends early. The first reason that reaches rank 0 becomes the reason of all ranks. */
export type Ending =
  | { readonly kind: "stopped" }
  | RankError
  /** No message came from these ranks for `seconds`. */
  | { readonly kind: "silent"; readonly ranks: readonly number[]; readonly seconds: number }
  /** These ranks are alive but did not reach `operation`, where the others waited for `seconds`. */
  | { readonly kind: "late"; readonly ranks: readonly number[]; readonly seconds: number; readonly operation: string }
  /** This rank started another operation than the others. */
  | { readonly kind: "apart"; readonly rank: number; readonly operation: string; readonly others: string };

/** An error on one rank. */
export interface RankError {
  readonly kind: "error";
  readonly rank: number;
  readonly message: string;
  /** The code and facts of an `InputError`. Other errors have no code. */
  readonly code?: ErrorCode | undefined;
  readonly facts?: ErrorFacts | undefined;
}
