/**
 * The processes of one run, each with a copy of what learns and a share of every update's pictures. MPI calls them ranks.
 *
 * All ranks call the operations below in the same order. Numbers are added in float64: sums in float32 would differ by 1e-7
 * relative from one number of ranks to the next, which Adam's division by small second moments makes more of; for the 3.2 MB
 * that rank-4 LoRA has on Stable Diffusion 1.5 the wider numbers cost a millisecond or two (`bench/allreduce.ts`).
 */
export interface Cluster {
  readonly rank: number;
  /** How many ranks. */
  readonly size: number;
  /** Among the ranks on the same host, in the order of ranks. */
  readonly localRank: number;
  readonly localSize: number;
  /** Of each rank, the name of its host. */
  readonly hosts: readonly string[];
  /** What carries the messages, such as "Open MPI v4.1.4"; for messages. */
  readonly transport: string;
  /**
   * Aborts when the run is to end before its time: with a `ClusterFailure`, or with `StopRequest` after `stop`. Operations in
   * progress reject with the same reason, and so do all later ones but `close`.
   */
  readonly ended: AbortSignal;

  /** values ← the sum of all ranks' values, the same bits on every rank. */
  sum(values: Float64Array): Promise<void>;
  /** Every rank's value, in the order of ranks, on every rank. Values are what `structuredClone` takes. */
  allGather<T>(value: T, options?: DoorOptions): Promise<T[]>;
  /** The same for rank 0 alone; elsewhere an empty list. */
  gather<T>(value: T, options?: DoorOptions): Promise<T[]>;
  /** Rank 0's value. */
  broadcast<T>(value: T, options?: DoorOptions): Promise<T>;
  barrier(options?: DoorOptions): Promise<void>;

  /** Asks all ranks to end in good order; what is in progress is given up. */
  stop(): void;
  /** Tells all ranks that this one cannot go on. */
  fail(error: unknown): void;
  /**
   * Leaves the cluster, together with all other ranks. After an early end, this ends the process, with `exitCode`: what was
   * given up may still be running in other threads.
   */
  close(exitCode?: number): Promise<void>;
}

export interface DoorOptions {
  /**
   * Wait for the others however long they take, as long as they live. Otherwise a rank that takes more than several times as
   * long as the fastest one to come here counts as hanging.
   */
  readonly patient?: boolean;
}

/** A rank failed, and with it the run. */
export class ClusterFailure extends Error {
  override readonly name = "ClusterFailure";

  constructor(
    message: string,
    /** The ranks that it is about. */
    readonly ranks: readonly number[],
    /** Bad input, as an `InputError`. */
    readonly input: boolean,
    /** The rank that tells people, so that they read it once: the first one that can. */
    readonly teller: number,
  ) {
    super(message);
  }
}

/** All ranks were asked to stop. */
export class StopRequest extends Error {
  override readonly name = "StopRequest";

  constructor() {
    super("the run was asked to stop");
  }
}

/** `work`, or the early end of the run where that comes first; what `work` is still at then is given up. */
export function orEnd<T>({ ended }: Pick<Cluster, "ended">, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const end = () => reject(ended.reason);
    if (ended.aborted) end();
    ended.addEventListener("abort", end, { once: true });
    work.then(resolve, reject).finally(() => ended.removeEventListener("abort", end));
  });
}

/** A run of one process. */
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
    // Whoever calls this has the error in hand, and nobody else is there to be told.
    fail: () => {},
    close: async () => {},
  };
}
