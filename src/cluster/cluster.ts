import { type ErrorCode, type ErrorFacts, InputError } from "../errors/index.js";

/**
 * The processes of one run, called ranks as in MPI. Each holds a copy of the trainable parameters and processes a share
 * of every step's samples.
 *
 * All ranks must call the operations below in the same order. Sums are computed in float64: in float32 they would
 * differ by 1e-7 (relative) with the number of ranks, and Adam amplifies such differences where it divides by small
 * second moments. Rank-4 LoRA on Stable Diffusion 1.5 has 3.2 MB of parameters; for these, float64 costs a millisecond
 * or two more per sum (`bench/allreduce.ts`).
 */
export interface Cluster {
  readonly rank: number;
  /** The number of ranks. */
  readonly size: number;
  /** This rank's index among the ranks of its host, in the order of ranks. */
  readonly localRank: number;
  /** The number of ranks on this host. */
  readonly localSize: number;
  /** The host name of each rank. */
  readonly hosts: readonly string[];
  /** The library that carries the messages, such as "Open MPI v4.1.4". Used in messages only. */
  readonly transport: string;
  /**
   * Aborts if the run ends early: with a `ClusterFailure`, or with a `StopRequest` after `stop`. Operations in progress
   * and all later ones except `close` reject with the same reason.
   */
  readonly ended: AbortSignal;

  /** Replaces `values` by their sums over all ranks. Every rank gets the same bits. */
  sum(values: Float64Array): Promise<void>;
  /**
   * Returns every rank's value, in the order of ranks, on every rank. Takes all values that `structuredClone` takes.
   */
  allGather<T>(value: T, options?: WaitOptions): Promise<T[]>;
  /** Like `allGather`, but only rank 0 gets the values. The other ranks get an empty list. */
  gather<T>(value: T, options?: WaitOptions): Promise<T[]>;
  /** Returns rank 0's value on every rank. */
  broadcast<T>(value: T, options?: WaitOptions): Promise<T>;
  barrier(options?: WaitOptions): Promise<void>;

  /** Asks all ranks to stop and save. Operations in progress are abandoned. */
  stop(): void;
  /** Ends the run on all ranks because of an error on this one. */
  fail(error: unknown): void;
  /**
   * Leaves the cluster together with all other ranks. If the run ended early, this ends the process with `exitCode`,
   * because abandoned work may still be running in other threads.
   */
  close(exitCode?: number): Promise<void>;
}

export interface WaitOptions {
  /**
   * Wait for the other ranks as long as they are alive. By default, a rank that takes several times as long as the
   * fastest one to reach this operation counts as hanging, and the run ends.
   */
  readonly patient?: boolean;
}

/** The run ended because at least one rank failed. */
export class ClusterFailure extends Error {
  override readonly name = "ClusterFailure";
  /** The ranks that failed. */
  readonly ranks: readonly number[];
  /** The code of the `InputError` that ended the run; undefined if the cause was not bad input. */
  readonly code: ErrorCode | undefined;
  /** The facts of that `InputError`, or those of a lost rank: `ranks`, `seconds`, `operation`. */
  readonly facts: ErrorFacts;
  /** The one rank that reports the failure to the user: the lowest one that is still alive. */
  readonly teller: number;

  constructor(message: string, { ranks, code, facts = {}, teller = 0 }: ClusterFailureDetails) {
    super(message);
    this.ranks = ranks;
    this.code = code;
    this.facts = facts;
    this.teller = teller;
  }

  /** True if the run ended because of bad input. */
  get input(): boolean {
    return this.code !== undefined;
  }
}

export interface ClusterFailureDetails {
  readonly ranks: readonly number[];
  readonly code?: ErrorCode | undefined;
  readonly facts?: ErrorFacts;
  readonly teller?: number;
}

/** Bad input that every rank finds at the same time. The run reports it as an error of rank 0, whichever rank is first. */
export class CollectiveError extends InputError {}

/** All ranks were asked to stop. */
export class StopRequest extends Error {
  override readonly name = "StopRequest";

  constructor() {
    super("the run was asked to stop");
  }
}

/** Names a rank in messages: "rank 1 (host-b)". */
export function rankName({ hosts }: Pick<Cluster, "hosts">, rank: number): string {
  return `rank ${rank} (${hosts[rank]})`;
}

/**
 * Returns the result of `work`. If the run ends first, rejects with the reason, and the result of `work` is discarded.
 */
export function orEnd<T>({ ended }: Pick<Cluster, "ended">, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const end = () => reject(ended.reason);
    if (ended.aborted) end();
    ended.addEventListener("abort", end, { once: true });
    work.then(resolve, reject).finally(() => ended.removeEventListener("abort", end));
  });
}

/** The cluster of a run with one process. */
export function singleProcess(): Cluster {
  const ended = new AbortController();
  const open = async () => ended.signal.throwIfAborted();
  return {
    rank: 0,
    size: 1,
    localRank: 0,
    localSize: 1,
    hosts: ["this one"],
    transport: "one process",
    ended: ended.signal,
    sum: open,
    allGather: async (value) => {
      await open();
      return [value];
    },
    gather: async (value) => {
      await open();
      return [value];
    },
    broadcast: async (value) => {
      await open();
      return value;
    },
    barrier: open,
    stop: () => ended.abort(new StopRequest()),
    // The caller already has the error, and there is no other rank to tell.
    fail: () => {},
    close: async () => {},
  };
}
