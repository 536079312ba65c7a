import { deserialize, serialize } from "node:v8";
import { Worker } from "node:worker_threads";
import koffi from "koffi";
import { InputError } from "../errors/index.js";
import { type Cluster, ClusterFailure, type DoorOptions, StopRequest } from "./cluster.js";
import type { Launcher, MpiFamily } from "./launcher.js";
import type { Ending, Reply, Request, WorkerData } from "./protocol.js";

/** Numbers that are added at once (8 MB): more need more memory, and their time is the network's. */
const CHUNK = 2 ** 20;
/** Seconds that all ranks have to come together at the start; some may load their programs from a slow disk. */
const START_LIMIT = 60;
/** Seconds after which a process that cannot leave MPI ends without. */
const LEAVE_LIMIT = 10;

/** The ranks of a run that an MPI launcher started. Its calls are made by a thread of their own (`mpi/worker.js`). */
export class MpiCluster implements Cluster {
  readonly #controller = new AbortController();
  readonly #pending = new Map<number, { resolve: (value: unknown) => void; reject: (error: unknown) => void }>();
  readonly #scratch = new Float64Array(new SharedArrayBuffer(CHUNK * 8));
  readonly localRank: number;
  readonly localSize: number;
  #nextId = 0;

  private constructor(
    private readonly worker: Worker,
    private readonly limit: number,
    readonly rank: number,
    readonly size: number,
    readonly hosts: readonly string[],
    readonly transport: string,
  ) {
    const neighbours = [...hosts.keys()].filter((other) => hosts[other] === hosts[rank]);
    this.localRank = neighbours.indexOf(rank);
    this.localSize = neighbours.length;
    worker.on("message", (reply: Reply) => this.#take(reply));
    worker.on("error", (error) => this.#end({ kind: "error", rank, message: `MPI: ${error.message}`, input: false }));
    worker.unref();
  }

  /** Meets the other processes that `launcher` started. */
  static async connect(launcher: Launcher, workerData: WorkerData): Promise<MpiCluster> {
    // UCX, which both libraries may use, would exchange the process's malloc while its threads are running.
    process.env.UCX_MEM_EVENTS ??= "n";
    const worker = new Worker(new URL("./mpi/worker.js", import.meta.url), { workerData, execArgv: [] });
    const { rank, size, hosts, version } = await ready(worker, launcher);
    const cluster = new MpiCluster(worker, workerData.limit, rank, size, hosts, version);
    if (size !== launcher.size) {
      await cluster.close();
      throw new InputError(
        "ranks-unavailable",
        `${launcher.name} started ${launcher.size} processes, but ${version} sees ${size}: it is not that launcher's MPI. ` +
          "Start with the mpirun that belongs to it (under Slurm: srun --mpi=pmix or --mpi=pmi2), or name the launcher's " +
          "own library: ALIGNPROP_MPI=/path/to/libmpi.so",
      );
    }
    return cluster;
  }

  get ended(): AbortSignal {
    return this.#controller.signal;
  }

  async sum(values: Float64Array): Promise<void> {
    const door = { what: `the sum of ${values.length} numbers`, patient: false };
    for (let start = 0; start < values.length; start += CHUNK) {
      const chunk = values.subarray(start, start + CHUNK);
      this.#scratch.set(chunk);
      await this.#call({ kind: "sum", scratch: this.#scratch, count: chunk.length, door });
      chunk.set(this.#scratch.subarray(0, chunk.length));
    }
  }

  allGather<T>(value: T, options?: DoorOptions): Promise<T[]> {
    return this.#gather(value, true, options);
  }

  gather<T>(value: T, options?: DoorOptions): Promise<T[]> {
    return this.#gather(value, false, options);
  }

  async broadcast<T>(value: T, { patient = false }: DoorOptions = {}): Promise<T> {
    const own = this.rank === 0 ? serialize(value) : new Uint8Array();
    const bytes = await this.#call({ kind: "broadcast", own, door: { what: "a broadcast", patient } });
    return this.rank === 0 ? value : (deserialize(bytes as Uint8Array) as T);
  }

  async barrier({ patient = false }: DoorOptions = {}): Promise<void> {
    await this.#call({ kind: "barrier", door: { what: "a barrier", patient } });
  }

  stop(): void {
    this.#tellEnding({ kind: "stopped" });
  }

  fail(error: unknown): void {
    const message = error instanceof Error ? error.message || error.name : String(error);
    this.#tellEnding({ kind: "error", rank: this.rank, message, input: error instanceof InputError });
  }

  async close(exitCode = 0): Promise<void> {
    await this.barrier({ patient: true }).catch(() => {});
    // Whatever happens in MPI, the process ends. After an early end others may have to wait for what rank 0 writes.
    const seconds = LEAVE_LIMIT + (this.ended.aborted ? this.limit : 0);
    const late = setTimeout(() => exitNow(exitCode || 1), seconds * 1000);
    await this.#post({ kind: "close", exitCode, early: this.ended.aborted }).catch(() => {});
    clearTimeout(late);
    if (this.ended.aborted) exitNow(exitCode);
    await this.worker.terminate();
  }

  async #gather<T>(value: T, everywhere: boolean, { patient = false }: DoorOptions = {}): Promise<T[]> {
    const door = { what: everywhere ? "gathering for all" : "gathering", patient };
    const result = await this.#call({ kind: "gather", own: serialize(value), everywhere, door });
    const { all, sizes } = result as { all: Uint8Array; sizes: Int32Array };
    if (all.length === 0) return [];
    let end = 0;
    return Array.from(sizes, (size) => {
      end += size;
      return deserialize(all.subarray(end - size, end)) as T;
    });
  }

  /** As `#post`, but an early end of the run ends this as well. */
  async #call(request: Request): Promise<unknown> {
    this.ended.throwIfAborted();
    return this.#post(request);
  }

  #post(request: Request): Promise<unknown> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      // Only work in progress keeps the process alive.
      this.worker.ref();
      this.worker.postMessage({ id, request });
    });
  }

  #take(reply: Reply): void {
    if (reply.kind === "ended") this.#end(reply.ending);
    if (reply.kind !== "done" && reply.kind !== "failed") return;
    const waiting = this.#pending.get(reply.id);
    this.#pending.delete(reply.id);
    if (this.#pending.size === 0) this.worker.unref();
    if (reply.kind === "done") waiting?.resolve(reply.result);
    else waiting?.reject(new Error(reply.error));
  }

  #tellEnding(ending: Ending): void {
    this.worker.postMessage({ id: this.#nextId++, request: { kind: "end", ending } satisfies Request });
    this.#end(ending);
  }

  /** The first reason stays. */
  #end(ending: Ending): void {
    if (this.ended.aborted) return;
    const reason = ending.kind === "stopped" ? new StopRequest() : this.#failure(ending);
    this.#controller.abort(reason);
    for (const { reject } of this.#pending.values()) reject(reason);
    this.#pending.clear();
  }

  #failure(ending: Exclude<Ending, { kind: "stopped" }>): ClusterFailure {
    const { hosts } = this;
    const named = (rank: number) => `rank ${rank} (${hosts[rank]})`;
    switch (ending.kind) {
      case "error": {
        const { rank, message, input } = ending;
        return new ClusterFailure(rank === 0 ? message : `${named(rank)}: ${message}`, [rank], input, 0);
      }
      case "silent": {
        const { ranks, seconds } = ending;
        const teller = [...Array(this.size).keys()].find((rank) => !ranks.includes(rank)) ?? 0;
        const message = `nothing was heard of ${listed(ranks, named)} for ${seconds} s: it died or hangs, or its network is cut`;
        return new ClusterFailure(message, ranks, false, teller);
      }
      case "late": {
        const { ranks, seconds, what } = ending;
        const message = `${listed(ranks, named)} did not come to ${what}, where the others waited for ${seconds.toFixed(0)} s: it hangs`;
        return new ClusterFailure(message, ranks, false, 0);
      }
      case "apart": {
        const { rank, what, others } = ending;
        const message = `${named(rank)} came to ${what} where another came to ${others}: do all run the same version with the same settings?`;
        return new ClusterFailure(message, [rank], true, 0);
      }
    }
  }
}

/** The first words of the thread that calls MPI. */
async function ready(worker: Worker, launcher: Launcher): Promise<Extract<Reply, { kind: "ready" }>> {
  const reply = await new Promise<Reply | "late">((resolve, reject) => {
    const timer = setTimeout(resolve, START_LIMIT * 1000, "late");
    const settle = <T>(how: (value: T) => void) => {
      return (value: T) => {
        clearTimeout(timer);
        how(value);
      };
    };
    worker.once("message", settle(resolve));
    worker.once("error", settle(reject));
  });
  if (reply !== "late" && reply.kind === "ready") return reply;
  if (reply !== "late" && reply.kind === "missing") {
    await worker.terminate();
    throw new InputError(
      "ranks-unavailable",
      `${launcher.name} started this run on ${launcher.size} processes, but no library of MPI can be loaded (${reply.reasons.join("; ")}). ` +
        `${INSTALL[launcher.families[0]]}, or name a library: ALIGNPROP_MPI=/path/to/libmpi.so`,
    );
  }
  // A thread that is stuck in MPI would hold up the end of the process.
  process.once("exit", exitNow);
  throw new Error(
    `the ${launcher.size} processes that ${launcher.name} started did not come together within ${START_LIMIT} s: are all hosts reachable from each other?`,
  );
}

const INSTALL: Record<MpiFamily, string> = {
  "Open MPI": "Install Open MPI (Debian and Ubuntu: apt install openmpi-bin; macOS: brew install open-mpi)",
  MPICH: "Install MPICH (Debian and Ubuntu: apt install mpich; macOS: brew install mpich)",
};

/** "rank 1 (a), rank 2 (b) and 5 more" */
function listed(ranks: readonly number[], named: (rank: number) => string): string {
  const most = 4;
  const shown = ranks.slice(0, most).map(named).join(", ");
  return ranks.length > most ? `${shown} and ${ranks.length - most} more` : shown;
}

/** Ends the process without waiting for threads that are inside a library. */
function exitNow(exitCode: number): void {
  koffi.load(null).func("void _exit(int)")(exitCode);
}
