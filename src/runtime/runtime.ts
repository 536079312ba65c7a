import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { InputError } from "../errors/index.js";
import type { Graph } from "../graph/graph.js";
import { bytesOf, showType, type TensorType } from "../graph/value.js";
import { emit, type OnnxModel } from "../onnx/emit.js";
import type { WeightHolding } from "../onnx/lower.js";
import { add, input } from "../ops/index.js";
import type { HostTensor } from "../tensor/host.js";
import { sameShape } from "../tensor/shape.js";
import type { WeightSource } from "../weights/source.js";
import { holdingOf, isLarge, PACKED_UP_TO, returnsMemory, SESSION_OPTIONS } from "./holding.js";
import type { Reply, Request, SavingResult, WireTensor } from "./protocol.js";

export type Device = "cpu" | "cuda" | "webgpu";

export interface RuntimeOptions {
  readonly device?: Device;
  /** Number of threads within one operator. Default: all cores of the machine. */
  readonly threads?: number;
  /** Index of the GPU if CUDA shows several. Default: 0. */
  readonly gpu?: number;
}

/** A compiled graph. It holds memory in the worker until it is released. */
export interface Program {
  /**
   * Runs the graph and returns all outputs. `feeds` and `kept` must provide every input. Concurrent calls are queued.
   * @throws TypeError if an input is missing, unknown, or of another type or shape
   */
  run(feeds: Feeds, kept?: SavedOutputs): Promise<Record<string, HostTensor>>;
  /** Like `run`, but the outputs named by `keep` stay in the worker. */
  runSaving(
    feeds: Feeds,
    keep: readonly string[],
  ): Promise<{ outputs: Record<string, HostTensor>; kept: SavedOutputs }>;
  release(): Promise<void>;
}

export type Feeds = Readonly<Record<string, HostTensor>>;

/**
 * Outputs of a run that stayed in the worker, to avoid copies between threads. They serve as inputs of the same names
 * for other programs of the same runtime. They hold memory until they are released.
 */
export interface SavedOutputs {
  readonly outputs: Readonly<Record<string, TensorType>>;
  readonly bytes: number;
  /** Frees the memory. Calling it again does nothing. */
  release(): Promise<void>;
}

const ENDED = "runtime: the worker thread ended";

/** ONNX Runtime in a worker thread. `close` ends the thread and frees all its memory. */
export class Runtime {
  private readonly pending = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  /** The id in the worker of each `SavedOutputs` that was not released. */
  private readonly kept = new Map<SavedOutputs, number>();
  private readonly ended: Promise<void>;
  private nextId = 0;
  private closed = false;

  /** Bytes of weights up to which the programs that are compiled from now on pack them (`holdingOf`). */
  packUpTo = PACKED_UP_TO;

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

  /**
   * Starts the worker and checks with a one-node graph that the device works.
   * @throws InputError if the device is not available
   */
  static async start({
    device = "cpu",
    threads = availableParallelism(),
    gpu = 0,
  }: RuntimeOptions = {}): Promise<Runtime> {
    // Do not inherit the process's options: workers do not accept all of them (`node --input-type=module -e …`).
    const worker = new Worker(new URL("./worker.js", import.meta.url), { execArgv: [] });
    const runtime = new Runtime(worker, device, threads, gpu);
    if (device !== "cpu") await probe(runtime);
    return runtime;
  }

  /** How a program of this graph holds its weights. */
  holdingOf(graph: Graph, packUpTo = this.packUpTo): WeightHolding {
    return this.device === "cpu" ? holdingOf(graph, packUpTo) : "packed";
  }

  /** Compiles a graph. `weights` provides the data of its parameters. */
  async compile(graph: Graph, weights?: WeightSource): Promise<Program> {
    const holding = this.holdingOf(graph);
    const { bytes, weightFolder } = modelOf(graph, weights, holding);
    const { graphOptimizationLevel, session: config } = SESSION_OPTIONS[holding];
    const options = {
      executionProviders: [...acceleratorOf(this.device, this.gpu), "cpu"],
      intraOpNumThreads: this.threads,
      graphOptimizationLevel,
      // With memory patterns, the arena reserves the peak of every buffer. Without them, the peak of a backward pass is
      // little more than half as high.
      enableMemPattern: false,
      enableCpuMemArena: !returnsMemory(graph, holding),
      // Errors are thrown as exceptions and need not go to stderr as well.
      logSeverityLevel: 4,
      extra: {
        session: { ...config, ...(weightFolder && { model_external_initializers_file_folder_path: weightFolder }) },
      },
    };
    const mapped = holding === "mapped";
    const large = isLarge(graph, holding);
    let session: number;
    try {
      session = (await this.call({ kind: "create", model: bytes, options, mapped, large })) as number;
    } catch (error) {
      if (this.closed) throw error;
      throw new Error(`${graph.name}: ONNX Runtime rejected the graph: ${(error as Error).message}`);
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
        const request = { kind: "run", session, feeds: wire, kept: kept && this.idOf(kept) } as const;
        return fromWire((await attempt(request)) as Record<string, WireTensor>, graph.outputs);
      },
      runSaving: async (feeds, keep) => {
        const stays = (name: string) => keep.includes(name);
        const missing = keep.find((name) => !(name in graph.outputs));
        if (missing) throw new TypeError(`${graph.name}: no output ${missing} to keep`);
        const request = { kind: "runSaving", session, feeds: toWire(graph, feeds), keep } as const;
        const result = (await attempt(request)) as SavingResult;
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

  /**
   * Rejects all pending calls at once, then waits until the thread has finished its current run. Terminating it inside
   * ONNX Runtime would crash the process.
   */
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

  private keep(id: number, outputs: Readonly<Record<string, TensorType>>): SavedOutputs {
    const kept: SavedOutputs = {
      outputs,
      bytes: Object.values(outputs).reduce((total, type) => total + bytesOf(type), 0),
      release: async () => {
        if (this.kept.delete(kept) && !this.closed) await this.call({ kind: "releaseSaved", kept: id });
      },
    };
    this.kept.set(kept, id);
    return kept;
  }

  private idOf(kept: SavedOutputs): number {
    const id = this.kept.get(kept);
    if (id === undefined) throw new Error("runtime: these outputs were released, or they belong to another runtime");
    return id;
  }

  private call(request: Request): Promise<unknown> {
    if (this.closed) return Promise.reject(new Error("runtime: already closed"));
    const id = this.nextId++;
    return new Promise((resolve, reject) => {
      this.pending.set(id, { resolve, reject });
      // Only pending work keeps the process alive.
      this.worker.ref();
      this.worker.postMessage({ id, request });
    });
  }
}

/** Larger models, which hold copies of weights, are not worth the memory. */
const MAX_CACHED_BYTES = 2 ** 24;

interface EmittedModel {
  readonly weights: WeightSource | undefined;
  readonly holding: WeightHolding;
  readonly model: OnnxModel;
}

const models = new WeakMap<Graph, EmittedModel>();

/** The model of a graph. Replicas compile the same graph with the same weights, and it is emitted once for all of them. */
function modelOf(graph: Graph, weights: WeightSource | undefined, holding: WeightHolding): OnnxModel {
  const known = models.get(graph);
  if (known && known.weights === weights && known.holding === holding) return known.model;
  const model = emit(graph, weights, holding);
  if (model.bytes.length <= MAX_CACHED_BYTES) models.set(graph, { weights, holding, model });
  return model;
}

function acceleratorOf(device: Device, gpu: number) {
  if (device === "cuda") return [{ name: device, deviceId: gpu }];
  return device === "webgpu" ? [device] : [];
}

function toWire(graph: Graph, feeds: Feeds, kept?: SavedOutputs): Record<string, WireTensor> {
  const given: Readonly<Record<string, TensorType>> = { ...kept?.outputs, ...feeds };
  const unknown = Object.keys(given).find((name) => !(name in graph.inputs));
  if (unknown)
    throw new TypeError(`${graph.name}: no input ${unknown}; the inputs are ${Object.keys(graph.inputs).join(", ")}`);
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
    const reason = (error as Error).message.split("\n")[0] ?? "";
    throw new InputError(
      "device-unavailable",
      `--device ${runtime.device}: the device is not available on this machine (${reason}). Use --device cpu.`,
      { option: "--device", found: runtime.device, reason },
    );
  }
}
