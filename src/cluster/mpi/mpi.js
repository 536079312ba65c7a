// @ts-check
/** Bindings of the MPI functions that are used here, for Open MPI and MPICH. They work on JavaScript's typed arrays. */
import koffi from "koffi";
import { mpichAbi } from "./mpich.js";
import { openMpiAbi } from "./open-mpi.js";

/** @typedef {Float64Array | Int32Array | Uint8Array} Memory */
/** @typedef {BigInt64Array} Request Memory for one MPI_Request. */

const THREAD_FUNNELED = 1;
/** Size of MPI_Status in 32-bit words. Neither library needs as many. */
const STATUS_WORDS = 16;
/** Size of the strings from MPI_Get_library_version and MPI_Error_string. Neither library needs as much. */
const TEXT_BYTES = 8192;

/**
 * Loads the first of these libraries that is installed.
 * @param {readonly string[]} names
 * @returns {Mpi | { missing: string[] }} if none is, the system's error message for each
 */
export function loadMpi(names) {
  const missing = [];
  for (const name of names) {
    try {
      // Open MPI's plugins look up the library's symbols in the global namespace.
      return new Mpi(koffi.load(name, { global: true }));
    } catch (error) {
      missing.push(`${name}: ${error instanceof Error ? error.message : error}`);
    }
  }
  return { missing };
}

export class Mpi {
  /**
   * Incomplete requests, with the memory that MPI still uses, so that it is not garbage-collected.
   * @type {Map<Request, Memory[]>}
   */
  #open = new Map();
  #flag = new Int32Array(1);
  #status = new Int32Array(STATUS_WORDS);
  /** @type {(code: number) => void} */
  #require;

  /** @param {import("koffi").LibraryHandle} library */
  constructor(library) {
    this.abi = openMpiAbi(library) ?? mpichAbi;
    const H = this.abi.handle;
    /** @type {(name: string, ...types: string[]) => (...values: unknown[]) => number} */
    const bind = (name, ...types) => library.func(`int ${name}(${types.join(", ")})`);
    this.functions = {
      initThread: bind("MPI_Init_thread", "void*", "void*", "int", "void*"),
      rank: bind("MPI_Comm_rank", H, "void*"),
      size: bind("MPI_Comm_size", H, "void*"),
      setErrorHandler: bind("MPI_Comm_set_errhandler", H, H),
      errorString: bind("MPI_Error_string", "int", "void*", "void*"),
      libraryVersion: bind("MPI_Get_library_version", "void*", "void*"),
      iallreduce: bind("MPI_Iallreduce", "void*", "void*", "int", H, H, H, "void*"),
      iallgather: bind("MPI_Iallgather", "void*", "int", H, "void*", "int", H, H, "void*"),
      iallgatherv: bind("MPI_Iallgatherv", "void*", "int", H, "void*", "void*", "void*", H, H, "void*"),
      igatherv: bind("MPI_Igatherv", "void*", "int", H, "void*", "void*", "void*", H, "int", H, "void*"),
      ibcast: bind("MPI_Ibcast", "void*", "int", H, "int", H, "void*"),
      isend: bind("MPI_Isend", "void*", "int", H, "int", "int", H, "void*"),
      iprobe: bind("MPI_Iprobe", "int", "int", H, "void*", "void*"),
      recv: bind("MPI_Recv", "void*", "int", H, "int", "int", H, "void*"),
      test: bind("MPI_Test", "void*", "void*", "void*"),
      abort: bind("MPI_Abort", H, "int"),
      finalize: bind("MPI_Finalize"),
    };
    this.#require = (code) => {
      if (code === 0) return;
      const text = Buffer.alloc(TEXT_BYTES);
      this.functions.errorString(code, text, new Int32Array(1));
      throw new Error(untilNull(text) || `error ${code}`);
    };
  }

  /** Blocks until all processes of the run have started. All further calls must come from this thread. */
  init() {
    const { world, errorsReturn } = this.abi;
    this.#require(this.functions.initThread(null, null, THREAD_FUNNELED, new Int32Array(1)));
    // Return errors as codes. By default, MPI ends the process.
    this.#require(this.functions.setErrorHandler(world, errorsReturn));
    const [rank, size] = [new Int32Array(1), new Int32Array(1)];
    this.#require(this.functions.rank(world, rank));
    this.#require(this.functions.size(world, size));
    return { rank: Number(rank[0]), size: Number(size[0]) };
  }

  /** Returns a name such as "Open MPI v4.1.4". May be called before `init`. */
  version() {
    const text = Buffer.alloc(TEXT_BYTES);
    this.functions.libraryVersion(text, new Int32Array(1));
    const said = untilNull(text);
    const found = /Open MPI v[\d.]+/.exec(said)?.[0] ?? /MPICH Version:\s*([\w.]+)/.exec(said)?.[1];
    if (found === undefined) return said.split(/[\n,]/)[0]?.trim() ?? "MPI";
    return found.startsWith("Open") ? found : `MPICH ${found}`;
  }

  /** Replaces `values` by their sums over all ranks. @param {Float64Array} values */
  sum(values) {
    const { inPlace, double, sum, world } = this.abi;
    return this.#start([values], (request) =>
      this.functions.iallreduce(inPlace, values, values.length, double, sum, world, request),
    );
  }

  /**
   * Fills `all` with the memory of all ranks, on every rank. Each has the same size.
   * @param {Memory} own
   * @param {Memory} all
   */
  gatherEqual(own, all) {
    const { byte, world } = this.abi;
    const bytes = own.byteLength;
    return this.#start([own, all], (request) =>
      this.functions.iallgather(own, bytes, byte, all, bytes, byte, world, request),
    );
  }

  /**
   * Fills `all` with the bytes of all ranks, on every rank. Those of rank i start at starts[i].
   * @param {Uint8Array} own @param {Uint8Array} all @param {Int32Array} sizes @param {Int32Array} starts
   */
  allGather(own, all, sizes, starts) {
    const { byte, world } = this.abi;
    return this.#start([own, all, sizes, starts], (request) =>
      this.functions.iallgatherv(own, own.length, byte, all, sizes, starts, byte, world, request),
    );
  }

  /**
   * Like `allGather`, on rank 0 only. On the other ranks `all` may be empty.
   * @param {Uint8Array} own @param {Uint8Array} all @param {Int32Array} sizes @param {Int32Array} starts
   */
  gather(own, all, sizes, starts) {
    const { byte, world } = this.abi;
    return this.#start([own, all, sizes, starts], (request) =>
      this.functions.igatherv(own, own.length, byte, all, sizes, starts, byte, 0, world, request),
    );
  }

  /** Replaces `bytes` by those of rank 0. @param {Memory} bytes */
  broadcast(bytes) {
    const { byte, world } = this.abi;
    return this.#start([bytes], (request) => this.functions.ibcast(bytes, bytes.byteLength, byte, 0, world, request));
  }

  /** @param {number} to @param {Uint8Array} message */
  send(to, message) {
    const { byte, world } = this.abi;
    return this.#start([message], (request) =>
      this.functions.isend(message, message.length, byte, to, 0, world, request),
    );
  }

  /**
   * Receives a message into `room` if one has arrived, and returns its sender. Does not wait.
   * @param {Uint8Array} room
   */
  receive(room) {
    const { anySource, anyTag, byte, world, sourceWord } = this.abi;
    this.#require(this.functions.iprobe(anySource, anyTag, world, this.#flag, this.#status));
    if (this.#flag[0] === 0) return undefined;
    const source = Number(this.#status[sourceWord]);
    this.#require(this.functions.recv(room, room.length, byte, source, anyTag, world, this.#status));
    return source;
  }

  /** Returns true if the request is complete. MPI makes progress only during such calls. @param {Request} request */
  isDone(request) {
    this.#require(this.functions.test(request, this.#flag, this.#status));
    const done = this.#flag[0] !== 0;
    if (done) this.#open.delete(request);
    return done;
  }

  /** Asks the launcher to terminate all processes. @param {number} exitCode */
  abort(exitCode) {
    this.functions.abort(this.abi.world, exitCode);
  }

  finalize() {
    this.functions.finalize();
  }

  /** @param {Memory[]} memory @param {(request: Request) => number} begin @returns {Request} */
  #start(memory, begin) {
    const request = new BigInt64Array(1);
    this.#open.set(request, memory);
    this.#require(begin(request));
    return request;
  }
}

/** @param {Buffer} text */
function untilNull(text) {
  return text.toString("utf8", 0, text.indexOf(0));
}
