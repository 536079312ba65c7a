// @ts-check
/** The functions of MPI that are used here, on memory of JavaScript, whichever library answers them. */
import koffi from "koffi";
import { mpichAbi } from "./mpich.js";
import { openMpiAbi } from "./open-mpi.js";

/** @typedef {Float64Array | Int32Array | Uint8Array} Memory */
/** @typedef {BigInt64Array} Request Room for one MPI_Request. */

const THREAD_FUNNELED = 1;
/** Of MPI_Status, of MPI_Get_library_version's text and of MPI_Error_string's: more than either library needs. */
const STATUS_WORDS = 16;
const TEXT_BYTES = 8192;

/**
 * Loads the first of these libraries that is there.
 * @param {readonly string[]} names
 * @returns {Mpi | { missing: string[] }} what the system said of each that is not
 */
export function loadMpi(names) {
  const missing = [];
  for (const name of names) {
    try {
      // Open MPI's plugins look for the library's symbols among all that are loaded.
      return new Mpi(koffi.load(name, { global: true }));
    } catch (error) {
      missing.push(`${name}: ${error instanceof Error ? error.message : error}`);
    }
  }
  return { missing };
}

export class Mpi {
  /** What is not complete, with the memory that MPI goes on using: nobody may collect it. @type {Map<Request, Memory[]>} */
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
      throw new Error(untilNul(text) || `error ${code}`);
    };
  }

  /** Blocks until all processes of the run are there. All further calls must come from this thread. */
  init() {
    const { world, errorsReturn } = this.abi;
    this.#require(this.functions.initThread(null, null, THREAD_FUNNELED, new Int32Array(1)));
    // Errors come back as codes; left to itself MPI ends the process.
    this.#require(this.functions.setErrorHandler(world, errorsReturn));
    const [rank, size] = [new Int32Array(1), new Int32Array(1)];
    this.#require(this.functions.rank(world, rank));
    this.#require(this.functions.size(world, size));
    return { rank: Number(rank[0]), size: Number(size[0]) };
  }

  /** Such as "Open MPI v4.1.4"; asked for before `init` as well. */
  version() {
    const text = Buffer.alloc(TEXT_BYTES);
    this.functions.libraryVersion(text, new Int32Array(1));
    const said = untilNul(text);
    const found = /Open MPI v[\d.]+/.exec(said)?.[0] ?? /MPICH Version:\s*([\w.]+)/.exec(said)?.[1];
    if (found === undefined) return said.split(/[\n,]/)[0]?.trim() ?? "MPI";
    return found.startsWith("Open") ? found : `MPICH ${found}`;
  }

  /** values ← the sum of all ranks' values. @param {Float64Array} values */
  sum(values) {
    const { inPlace, double, sum, world } = this.abi;
    return this.#start([values], (request) =>
      this.functions.iallreduce(inPlace, values, values.length, double, sum, world, request),
    );
  }

  /** `all` ← all ranks' memory, of the same size each, on every rank. @param {Memory} own @param {Memory} all */
  gatherEqual(own, all) {
    const { byte, world } = this.abi;
    const bytes = own.byteLength;
    return this.#start([own, all], (request) =>
      this.functions.iallgather(own, bytes, byte, all, bytes, byte, world, request),
    );
  }

  /**
   * `all` ← all ranks' bytes, those of rank i at starts[i], on every rank.
   * @param {Uint8Array} own @param {Uint8Array} all @param {Int32Array} sizes @param {Int32Array} starts
   */
  allGather(own, all, sizes, starts) {
    const { byte, world } = this.abi;
    return this.#start([own, all, sizes, starts], (request) =>
      this.functions.iallgatherv(own, own.length, byte, all, sizes, starts, byte, world, request),
    );
  }

  /**
   * The same on rank 0 alone; elsewhere `all` may be empty.
   * @param {Uint8Array} own @param {Uint8Array} all @param {Int32Array} sizes @param {Int32Array} starts
   */
  gather(own, all, sizes, starts) {
    const { byte, world } = this.abi;
    return this.#start([own, all, sizes, starts], (request) =>
      this.functions.igatherv(own, own.length, byte, all, sizes, starts, byte, 0, world, request),
    );
  }

  /** bytes ← those of rank 0. @param {Memory} bytes */
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

  /** A message that has come, if one has: its bytes go into `room`, its sender is returned. @param {Uint8Array} room */
  receive(room) {
    const { anySource, anyTag, byte, world, sourceWord } = this.abi;
    this.#require(this.functions.iprobe(anySource, anyTag, world, this.#flag, this.#status));
    if (this.#flag[0] === 0) return undefined;
    const source = Number(this.#status[sourceWord]);
    this.#require(this.functions.recv(room, room.length, byte, source, anyTag, world, this.#status));
    return source;
  }

  /** Whether the request is complete; asking is also what lets MPI go on with it. @param {Request} request */
  isDone(request) {
    this.#require(this.functions.test(request, this.#flag, this.#status));
    const done = this.#flag[0] !== 0;
    if (done) this.#open.delete(request);
    return done;
  }

  /** Asks the launcher to end all processes. @param {number} exitCode */
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
function untilNul(text) {
  return text.toString("utf8", 0, text.indexOf(0));
}
