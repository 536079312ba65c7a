// @ts-check
/**
 * The only thread that calls MPI. So MPI cannot block the main thread, and heartbeats go out while the main thread
 * builds graphs or writes files. This is plain JavaScript because a worker starts from a file, which is the same in
 * `src` and `dist`.
 */
import { hostname } from "node:os";
import { parentPort, workerData } from "node:worker_threads";
import { loadMpi, Mpi } from "./mpi.js";
import { GOODBYE, now, Peers } from "./peers.js";

/** @typedef {import("../protocol.js").Request} Request */
/** @typedef {import("../protocol.js").Reply} Reply */
/** @typedef {import("../protocol.js").WorkerData} WorkerData */
/** @typedef {import("./mpi.js").Request} MpiRequest */

if (!parentPort) throw new Error("MPI worker: must be started as a worker thread");
const port = parentPort;
const { libraries, limit } = /** @type {WorkerData} */ (workerData);

/** @param {Reply} reply @param {readonly import("node:worker_threads").TransferListItem[]} [moved] */
const tell = (reply, moved = []) => port.postMessage(reply, moved);

const mpi = loadMpi(libraries);
if (mpi instanceof Mpi) await serve(mpi);
else tell({ kind: "missing", reasons: mpi.missing });

/** @param {Mpi} mpi */
async function serve(mpi) {
  const { rank, size } = mpi.init();
  const hosts = await hostsOf(mpi, size);
  const peers = new Peers(mpi, { rank, size, limit, onEnd: (ending) => tell({ kind: "ended", ending }) });
  /** True during an operation that all ranks have started. MPI cannot be finalized before it is done. */
  let working = false;
  let left = false;
  /** @type {NodeJS.Timeout | undefined} */
  let timer;
  /** @type {NodeJS.Immediate | undefined} */
  let immediate;

  const attend = () => {
    clearTimeout(timer);
    clearImmediate(immediate);
    if (left) return;
    try {
      peers.tick();
    } catch (error) {
      peers.end({ kind: "error", rank, message: `MPI: ${/** @type {Error} */ (error).message}` });
    }
    const { pause } = peers;
    if (pause === 0) immediate = setImmediate(attend);
    else timer = setTimeout(attend, pause);
  };

  /** @param {MpiRequest} request */
  const finished = async (request) => {
    // All ranks have started this operation, so it completes even if the run ends, unless a rank is lost.
    let ended = Number.POSITIVE_INFINITY;
    while (!mpi.isDone(request)) {
      await new Promise((resolve) => setImmediate(resolve));
      peers.tick();
      if (peers.ending) ended = Math.min(ended, now());
      if (now() - ended > GOODBYE) throw new Error("the run has ended");
    }
  };

  /** Waits until the operation in progress is done, for `GOODBYE` seconds at most. */
  const idle = async () => {
    for (const since = now(); working && now() - since < GOODBYE; ) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  };

  /**
   * Concatenates the bytes of all ranks.
   * @param {Uint8Array} own @param {boolean} everywhere
   */
  const gathered = async (own, everywhere) => {
    const sizes = new Int32Array(size);
    await finished(mpi.gatherEqual(Int32Array.of(own.length), sizes));
    const starts = new Int32Array(size);
    const total = sizes.reduce((start, bytes, i) => {
      starts[i] = start;
      return start + bytes;
    }, 0);
    // MPI counts are 32-bit integers.
    if (total >= 2 ** 31) throw new Error(`MPI: cannot gather ${total} bytes at once; the limit is ${2 ** 31 - 1}`);
    const all = new Uint8Array(everywhere || rank === 0 ? total : 0);
    await finished((everywhere ? mpi.allGather : mpi.gather).call(mpi, own, all, sizes, starts));
    return { all, sizes };
  };

  /** @param {Uint8Array} own */
  const broadcast = async (own) => {
    const length = Int32Array.of(own.length);
    await finished(mpi.broadcast(length));
    const bytes = rank === 0 ? own : new Uint8Array(Number(length[0]));
    await finished(mpi.broadcast(bytes));
    return bytes;
  };

  /** @param {Extract<Request, { kind: "close" }>} request */
  const close = async ({ exitCode, early }) => {
    await idle();
    const together = !early || (await peers.leave());
    await idle();
    left = true;
    if (together && !working) {
      await peers.flush();
      // After this, no rank sends anything.
      await done(mpi, mpi.gatherEqual(new Uint8Array(1), new Uint8Array(size)));
      peers.drain();
      mpi.finalize();
    } else mpi.abort(exitCode || 1);
  };

  /** @param {Exclude<Request, { kind: "end" | "close" }>} request */
  const operate = (request) => {
    switch (request.kind) {
      case "sum":
        return finished(mpi.sum(request.scratch.subarray(0, request.count)));
      case "gather":
        return gathered(request.own, request.everywhere);
      case "broadcast":
        return broadcast(request.own);
      case "barrier":
        return undefined;
    }
  };

  /** @param {Request} request */
  const handle = async (request) => {
    if (request.kind === "end") return peers.end(request.ending);
    if (request.kind === "close") return close(request);
    const met = peers.meet(request.meeting);
    attend();
    await met;
    working = true;
    const result = await operate(request);
    working = false;
    return result;
  };

  port.on("message", async ({ id, request }) => {
    try {
      const result = await handle(request);
      if (request.kind !== "end") tell({ kind: "done", id, result });
    } catch (error) {
      tell({ kind: "failed", id, error: error instanceof Error ? error.message : String(error) });
    }
  });
  tell({ kind: "ready", rank, size, hosts, version: mpi.version() });
  attend();
}

/** Gathers the host names of all ranks. @param {Mpi} mpi @param {number} size */
async function hostsOf(mpi, size) {
  // The longest name that POSIX allows, which no system exceeds.
  const length = 256;
  const own = Buffer.alloc(length);
  own.write(hostname(), 0, length - 1);
  const all = Buffer.alloc(length * size);
  await done(mpi, mpi.gatherEqual(own, all));
  return Array.from({ length: size }, (_, i) => {
    const name = all.subarray(i * length, (i + 1) * length);
    return name.toString("utf8", 0, name.indexOf(0));
  });
}

/** @param {Mpi} mpi @param {MpiRequest} request */
async function done(mpi, request) {
  while (!mpi.isDone(request)) await new Promise((resolve) => setImmediate(resolve));
}
