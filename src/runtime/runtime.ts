import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { InputError } from "../errors/index.js";
import type { Graph } from "../graph/graph.js";
import { liveBytes } from "../graph/live-bytes.js";
import { bytesOf, showType, type TensorType } from "../graph/value.js";
import { emit } from "../onnx/emit.js";
import { add, input } from "../ops/index.js";
import type { HostTensor } from "../tensor/host.js";
import { sameShape } from "../tensor/shape.js";
import type { WeightSource } from "../weights/source.js";
import type { KeepingResult, Reply, Request, WireTensor } from "./protocol.js";

export type Device = "cpu" | "cuda" | "webgpu";

export interface RuntimeOptions {
  readonly device?: Device;
  /** Threads of one operator; default: as many as the machine offers. */
  readonly threads?: number;
  /** Which GPU, counted from 0, where CUDA sees several. */
  readonly gpu?: number;
}

/**
 * Whether a program gives its working memory back after each run. An arena keeps it, grows by doubling and spares small
 * programs the time of asking; large ones lose no time without it, and of several used in turn only one needs its memory.
 */
export function returnsMemory(graph: Graph): boolean {
  return liveBytes(graph) > 2 ** 27;
}

/** A compiled graph. Owns memory in the worker until released. */
export interface Program {
  /** Feeds every input of the graph, some of them perhaps from `kept`; gives every output. Calls from several places queue up. */
  run(feeds: Feeds, kept?: Kept): Promise<Record<string, HostTensor>>;
  /** The same, but the outputs that `keep` names stay in the worker. */
  runKeeping(feeds: Feeds, keep: readonly string[]): Promise<{ outputs: Record<string, HostTensor>; kept: Kept }>;
  release(): Promise<void>;
}

export type Feeds = Readonly<Record<string, HostTensor>>;

/**
 * Outputs of a run that stayed in the worker, so that they cross no thread: inputs of the same names for another program
 * of the same runtime. They hold their memory until released.
 */
export interface Kept {
  readonly outputs: Readonly<Record<string, TensorType>>;
  readonly bytes: number;
  /** A second time does nothing. */
  release(): Promise<void>;
}

const ENDED = "runtime: the worker thread ended";

/** ONNX Runtime in a worker thread. `close` ends the thread and frees everything it holds. */
export class Runtime {
  private readonly pending = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  /** What is kept, and its number in the worker. */
  private readonly kept = new Map<Kept, number>();
  private readonly ended: Promise<void>;
  private nextId = 0;
  private closed = false;

  private constructor(
    private readonly worker: Worker,
    readonly device: Device,
    readonly threads: number,
    private readonly gpu: number,
  ) {
    worker.on("message", (reply: Reply) => {
      const waiting = this.pending.get(reply.id);
      this.pending.delete(reply.id);
      if (this.pending.size === 0) worker.unref();
      if (reply.error === undefined) waiting?.resolve(reply.result);
      else waiting?.reject(new Error(reply.error));
    });
    worker.on("error", (error) => this.fail(error));
    this.ended = new Promise((resolve) => {
      worker.on("exit", () => {
        this.closed = true;
        this.fail(new Error(ENDED));
        resolve();
      });
    });
    worker.unref();
  }

  /** Starts the worker, and shows with a one-node session that the device is there. */
  static async start({
    device = "cpu",
    threads = availableParallelism(),
    gpu = 0,
  }: RuntimeOptions = {}): Promise<Runtime> {
    // Without the process's own options: not all of them are a worker's (`node --input-type=module -e …`).
    const worker = new Worker(new URL("./worker.js", import.meta.url), { execArgv: [] });
    const runtime = new Runtime(worker, device, threads, gpu);
    if (device !== "cpu") await probe(runtime);
    return runtime;
  }

  async compile(graph: Graph, weights?: WeightSource): Promise<Program> {
    const { bytes, weightFolder } = emit(graph, weights);
    const options = {
      executionProviders: [...acceleratorOf(this.device, this.gpu), "cpu"],
      intraOpNumThreads: this.threads,
      graphOptimizationLevel: "all",
      // Patterned arenas keep the peak of every buffer; without them a backward pass peaks at little over half.
      enableMemPattern: false,
      enableCpuMemArena: !returnsMemory(graph),
      // Errors come as exceptions; they need not be on stderr too.
      logSeverityLevel: 4,
      ...(weightFolder && { extra: { session: { model_external_initializers_file_folder_path: weightFolder } } }),
    };
    let session: number;
    try {
      session = (await this.call({ kind: "create", model: bytes, options })) as number;
    } catch (error) {
      if (this.closed) throw error;
      throw new Error(`${graph.name}: ONNX Runtime does not take this graph: ${(error as Error).message}`);
    }
    const attempt = async (request: Request) => {
      try {
        return await this.call(request);
      } catch (error) {
        throw new Error(`${graph.name}: ${(error as Error).message}`);
      }
    };
    return {
      run: async (feeds, kept) => {
        const wire = toWire(graph, feeds, kept);
        const request = { kind: "run", session, feeds: wire, kept: kept && this.numberOf(kept) } as const;
        return fromWire((await attempt(request)) as Record<string, WireTensor>, graph.outputs);
      },
      runKeeping: async (feeds, keep) => {
        const stays = (name: string) => keep.includes(name);
        const missing = keep.find((name) => !(name in graph.outputs));
        if (missing) throw new TypeError(`${graph.name}: has no output ${missing} to keep`);
        const request = { kind: "runKeeping", session, feeds: toWire(graph, feeds), keep } as const;
        const result = (await attempt(request)) as KeepingResult;
        const named = Object.entries(graph.outputs);
        const returned = Object.fromEntries(named.filter(([name]) => !stays(name)));
        return {
          outputs: fromWire(result.outputs, returned),
          kept: this.keep(result.kept, Object.fromEntries(named.filter(([name]) => stays(name)))),
        };
      },
      release: async () => {
        if (!this.closed) await this.call({ kind: "release", session });
      },
    };
  }

  /** What is under way fails at once. The thread ends after it: cut off inside ONNX Runtime, it would take the process with it. */
  async close(): Promise<void> {
    if (!this.closed) {
      this.closed = true;
      this.fail(new Error(ENDED));
      this.worker.ref();
      this.worker.postMessage({ id: this.nextId++, request: { kind: "close" } });
    }
    await this.ended;
  }

  private fail(error: Error): void {
    for (const { reject } of this.pending.values()) reject(error);
    this.pending.clear();
  }

  private keep(id: number, outputs: Readonly<Record<string, TensorType>>): Kept {
    const kept: Kept = {
      outputs,
      bytes: Object.values(outputs).reduce((total, type) => total + bytesOf(type), 0),
      release: async () => {
        if (this.kept.delete(kept) && !this.closed) await this.call({ kind: "releaseKept", kept: id });
      },
    };
    this.kept.set(kept, id);
    return kept;
  }

  private numberOf(kept: Kept): number {
    const id = this.kept.get(kept);
    if (id === undefined) throw new Error("runtime: these kept outputs were released, or belong to another runtime");
    return id;
  }

  private call(request: Request): Promise<unknown> {
    if (this.closed) return Promise.reject(new Error("runtime: already closed"));
    const id = this.nextId++;
    return new Promise((resolve, reject) => {
      this.pending.set(id, { resolve, reject });
      // Only work in progress keeps the process alive.
      this.worker.ref();
      this.worker.postMessage({ id, request });
    });
  }
}

function acceleratorOf(device: Device, gpu: number) {
  if (device === "cuda") return [{ name: device, deviceId: gpu }];
  return device === "webgpu" ? [device] : [];
}

function toWire(graph: Graph, feeds: Feeds, kept?: Kept): Record<string, WireTensor> {
  const given: Readonly<Record<string, TensorType>> = { ...kept?.outputs, ...feeds };
  const unknown = Object.keys(given).find((name) => !(name in graph.inputs));
  if (unknown)
    throw new TypeError(`${graph.name}: has no input ${unknown}; it has ${Object.keys(graph.inputs).join(", ")}`);
  for (const [name, expected] of Object.entries(graph.inputs)) {
    const found = given[name];
    if (!found || found.dtype !== expected.dtype || !sameShape(found.shape, expected.shape)) {
      const got = found ? showType(found) : "nothing";
      throw new TypeError(`${graph.name}: input ${name} expects ${showType(expected)}, got ${got}`);
    }
  }
  return Object.fromEntries(
    Object.entries(feeds).map(([name, { dtype, shape, data }]) => [name, { type: dtype, data, dims: shape }]),
  );
}

function fromWire(
  wire: Readonly<Record<string, WireTensor>>,
  types: Readonly<Record<string, TensorType>>,
): Record<string, HostTensor> {
  return Object.fromEntries(
    Object.entries(types).map(([name, { shape, dtype }]) => [
      name,
      { shape, dtype, data: (wire[name] as WireTensor).data },
    ]),
  );
}

async function probe(runtime: Runtime): Promise<void> {
  const x = input([1]);
  try {
    const program = await runtime.compile({ name: "probe", inputs: { x }, outputs: { y: add(x, 1) } });
    await program.run({ x: { dtype: "float32", shape: [1], data: new Float32Array(1) } });
    await program.release();
  } catch (error) {
    await runtime.close();
    throw new InputError(
      "device-unavailable",
      `--device ${runtime.device}: this machine cannot run it (${(error as Error).message.split("\n")[0]}). Use --device cpu.`,
    );
  }
}
