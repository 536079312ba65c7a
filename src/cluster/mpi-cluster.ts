import { deserialize, serialize } from "node:v8";
import { Worker } from "node:worker_threads";
import koffi from "koffi";
import { InputError } from "../errors/index.js";
import { type Cluster, ClusterFailure, CollectiveError, rankName, StopRequest, type WaitOptions } from "./cluster.js";
import type { Launcher, MpiFamily } from "./launcher.js";
import type { Ending, Reply, Request, WorkerData } from "./protocol.js";

/** How many numbers one operation sums (8 MB). Larger chunks take more memory and are limited by the network anyway. */
const CHUNK = 2 ** 20;
/** Seconds within which all ranks must have started. Some may load their program from a slow disk. */
const START_LIMIT = 60;
/** Seconds after which a process that cannot leave MPI exits anyway. */
const LEAVE_LIMIT = 10;

/** The ranks of a run that an MPI launcher started. A separate thread makes all calls of MPI (`mpi/worker.js`). */
export class MpiCluster implements Cluster {
  readonly #controller = new AbortController();
  readonly #pending = new Map<number, { resolve: (value: unknown) => void; reject: (error: unknown) => void }>();
  readonly #scratch = new Float64Array(new SharedArrayBuffer(CHUNK * 8));
  readonly localRank: number;
  readonly localSize: number;
  #nextId = 0;

  readonly rank: number;
  readonly size: number;
  readonly hosts: readonly string[];
  readonly transport: string;

  private constructor(
    private readonly worker: Worker,
    private readonly limit: number,
    { rank, size, hosts, version }: Ready,
  ) {
    this.rank = rank;
    this.size = size;
    this.hosts = hosts;
    this.transport = version;
    const neighbours = [...hosts.keys()].filter((other) => hosts[other] === hosts[rank]);
    this.localRank = neighbours.indexOf(rank);
    this.localSize = neighbours.length;
    worker.on("message", (reply: Reply) => this.#take(reply));
    worker.on("error", (error) => this.#end({ kind: "error", rank, message: `MPI: ${error.message}` }));
    worker.unref();
  }

  /**
   * Connects to the other processes that `launcher` started.
   * @throws InputError if no MPI library can be loaded, or if it is not the launcher's own
   */
  static async connect(launcher: Launcher, workerData: WorkerData): Promise<MpiCluster> {
    // Both libraries may use UCX, which would replace the process's malloc while its threads are running.
    process.env.UCX_MEM_EVENTS ??= "n";
    const worker = new Worker(new URL("./mpi/worker.js", import.meta.url), { workerData, execArgv: [] });
    const cluster = new MpiCluster(worker, workerData.limit, await ready(worker, launcher));
    const { size, transport } = cluster;
    if (size !== launcher.size) {
      await cluster.close();
      throw new InputError(
        "ranks-unavailable",
        `${launcher.name} started ${launcher.size} processes, but ${transport} sees ${size}: the library does not ` +
          `belong to this launcher. Use the mpirun of ${transport} (under Slurm: srun --mpi=pmix or --mpi=pmi2), or set ` +
          "ALIGNPROP_MPI=/path/to/libmpi.so to the launcher's own library.",
        { launcher: launcher.name, library: transport, found: size, expected: launcher.size },
      );
    }
    return cluster;
  }

  get ended(): AbortSignal {
    return this.#controller.signal;
  }

  async sum(values: Float64Array): Promise<void> {
    const meeting = { operation: `the sum of ${values.length} numbers`, patient: false };
    for (let start = 0; start < values.length; start += CHUNK) {
      const chunk = values.subarray(start, start + CHUNK);
      this.#scratch.set(chunk);
      await this.#call({ kind: "sum", scratch: this.#scratch, count: chunk.length, meeting });
      chunk.set(this.#scratch.subarray(0, chunk.length));
    }
  }

  allGather<T>(value: T, options?: WaitOptions): Promise<T[]> {
    return this.#gather(value, true, options);
  }

  gather<T>(value: T, options?: WaitOptions): Promise<T[]> {
    return this.#gather(value, false, options);
  }

  async broadcast<T>(value: T, { patient = false }: WaitOptions = {}): Promise<T> {
    const own = this.rank === 0 ? serialize(value) : new Uint8Array();
    const bytes = await this.#call({ kind: "broadcast", own, meeting: { operation: "a broadcast", patient } });
    return this.rank === 0 ? value : (deserialize(bytes as Uint8Array) as T);
  }

  async barrier({ patient = false }: WaitOptions = {}): Promise<void> {
    await this.#call({ kind: "barrier", meeting: { operation: "a barrier", patient } });
  }

  stop(): void {
    this.#tellEnding({ kind: "stopped" });
  }

  fail(error: unknown): void {
    const message = error instanceof Error ? error.message || error.name : String(error);
    const { code, facts } = error instanceof InputError ? error : {};
    const rank = error instanceof CollectiveError ? 0 : this.rank;
    this.#tellEnding({ kind: "error", rank, message, code, facts });
  }

  async close(exitCode = 0): Promise<void> {
    await this.barrier({ patient: true }).catch(() => {});
    // The process must exit even if MPI hangs. After an early end, the other ranks may have to wait while rank 0 saves.
    const seconds = LEAVE_LIMIT + (this.ended.aborted ? this.limit : 0);
    const late = setTimeout(() => exitNow(exitCode || 1), seconds * 1000);
    await this.#post({ kind: "close", exitCode, early: this.ended.aborted }).catch(() => {});
    clearTimeout(late);
    if (this.ended.aborted) exitNow(exitCode);
    await this.worker.terminate();
  }

  async #gather<T>(value: T, everywhere: boolean, { patient = false }: WaitOptions = {}): Promise<T[]> {
    const meeting = { operation: everywhere ? "an all-gather" : "a gather", patient };
    const result = await this.#call({ kind: "gather", own: serialize(value), everywhere, meeting });
    const { all, sizes } = result as { all: Uint8Array; sizes: Int32Array };
    if (all.length === 0) return [];
    let end = 0;
    return Array.from(sizes, (size) => {
      end += size;
      return deserialize(all.subarray(end - size, end)) as T;
    });
  }

  /** Like `#post`, but rejects if the run has ended. */
  async #call(request: Request): Promise<unknown> {
    this.ended.throwIfAborted();
    return this.#post(request);
  }

  #post(request: Request): Promise<unknown> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      // Only pending work keeps the process alive.
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

  /** Later reasons are ignored. */
  #end(ending: Ending): void {
    if (this.ended.aborted) return;
    const reason = ending.kind === "stopped" ? new StopRequest() : this.#failure(ending);
    this.#controller.abort(reason);
    for (const { reject } of this.#pending.values()) reject(reason);
    this.#pending.clear();
  }

  #failure(ending: Exclude<Ending, { kind: "stopped" }>): ClusterFailure {
    const named = (ranks: readonly number[]) => listed(ranks.map((rank) => rankName(this, rank)));
    switch (ending.kind) {
      case "error": {
        const { rank, message, code, facts } = ending;
        const host = this.hosts[rank];
        return rank === 0
          ? new ClusterFailure(message, { ranks: [rank], code, facts: facts ?? {} })
          : new ClusterFailure(`${named([rank])}: ${message}`, {
              ranks: [rank],
              code,
              facts: { ...facts, rank, host },
            });
      }
      case "silent": {
        const { ranks, seconds } = ending;
        const teller = [...Array(this.size).keys()].find((rank) => !ranks.includes(rank)) ?? 0;
        const message =
          `no message came from ${named(ranks)} for ${seconds} s. ` +
          "The process died or hangs, or the network connection is lost.";
        return new ClusterFailure(message, { ranks, facts: { ranks, seconds }, teller });
      }
      case "late": {
        const { ranks, seconds, operation } = ending;
        const message =
          `${named(ranks)} did not reach ${operation}, where the other ranks waited for ${seconds.toFixed(0)} s. ` +
          "The process is alive but hangs.";
        return new ClusterFailure(message, { ranks, facts: { ranks, seconds, operation } });
      }
      case "apart": {
        const { rank, operation, others } = ending;
        const message =
          `${named([rank])} started ${operation}, but another rank started ${others}. ` +
          "Start all ranks with the same version and the same settings.";
        const facts = { rank, host: this.hosts[rank], found: operation, expected: others };
        return new ClusterFailure(message, { ranks: [rank], code: "ranks-mismatch", facts });
      }
    }
  }
}

type Ready = Extract<Reply, { kind: "ready" }>;

/** Waits until the thread that calls MPI has met all other ranks. */
async function ready(worker: Worker, launcher: Launcher): Promise<Ready> {
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
      `${launcher.name} started ${launcher.size} processes, but no MPI library can be loaded ` +
        `(${reply.reasons.join("; ")}). ${INSTALL[launcher.families[0]]}, or set ALIGNPROP_MPI=/path/to/libmpi.so.`,
      { launcher: launcher.name, processes: launcher.size, reasons: reply.reasons },
    );
  }
  // A thread that is stuck in MPI would keep the process from exiting.
  process.once("exit", exitNow);
  throw new Error(
    `the ${launcher.size} processes that ${launcher.name} started did not connect within ${START_LIMIT} s. ` +
      "Check that all hosts can reach each other.",
  );
}

const INSTALL: Record<MpiFamily, string> = {
  "Open MPI": "Install Open MPI (Debian and Ubuntu: apt install openmpi-bin; macOS: brew install open-mpi)",
  MPICH: "Install MPICH (Debian and Ubuntu: apt install mpich; macOS: brew install mpich)",
};

const MOST_LISTED = 4;

/** "rank 1 (a), rank 2 (b) and 5 more" */
function listed(names: readonly string[]): string {
  const shown = names.slice(0, MOST_LISTED).join(", ");
  return names.length > MOST_LISTED ? `${shown} and ${names.length - MOST_LISTED} more` : shown;
}

/** Exits at once, even if other threads are inside a native library. */
function exitNow(exitCode: number): void {
  koffi.load(null).func("void _exit(int)")(exitCode);
}
