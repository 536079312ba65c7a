import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import type { Graph } from "../graph/graph.js";
import { showType, type TensorType } from "../graph/value.js";
import { emit } from "../onnx/emit.js";
import { add, input } from "../ops/index.js";
import { InputError } from "../tensor/errors.js";
import type { HostTensor } from "../tensor/host.js";
import { sameShape } from "../tensor/shape.js";
import type { WeightSource } from "../weights/source.js";
import type { Reply, Request, WireTensor } from "./protocol.js";

export type Device = "cpu" | "cuda" | "webgpu";

export interface RuntimeOptions {
  readonly device?: Device;
  /** Threads of one operator; default: as many as the machine offers. */
  readonly threads?: number;
}

/** A compiled graph. Owns memory in the worker until released. */
export interface Program {
  /** Feeds every input of the graph; gives every output. Calls from several places queue up. */
  run(feeds: Readonly<Record<string, HostTensor>>): Promise<Record<string, HostTensor>>;
  release(): Promise<void>;
}

/** ONNX Runtime in a worker thread. `close` ends the thread and frees everything it holds. */
export class Runtime {
  private readonly pending = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  private nextId = 0;
  private closed = false;

  private constructor(
    private readonly worker: Worker,
    readonly device: Device,
    readonly threads: number,
  ) {
    worker.on("message", (reply: Reply) => {
      const waiting = this.pending.get(reply.id);
      this.pending.delete(reply.id);
      if (this.pending.size === 0) worker.unref();
      if (reply.error === undefined) waiting?.resolve(reply.result);
      else waiting?.reject(new Error(reply.error));
    });
    const fail = (error: Error) => {
      for (const { reject } of this.pending.values()) reject(error);
      this.pending.clear();
    };
    worker.on("error", fail);
    worker.on("exit", () => fail(new Error("runtime: the worker thread ended")));
    worker.unref();
  }

  /** Starts the worker, and shows with a one-node session that the device is there. */
  static async start({ device = "cpu", threads = availableParallelism() }: RuntimeOptions = {}): Promise<Runtime> {
    // Without the process's own options: not all of them are a worker's (`node --input-type=module -e …`).
    const worker = new Worker(new URL("./worker.js", import.meta.url), { execArgv: [] });
    const runtime = new Runtime(worker, device, threads);
    if (device !== "cpu") await probe(runtime);
    return runtime;
  }

  async compile(graph: Graph, weights?: WeightSource): Promise<Program> {
    const { bytes, weightFolder } = emit(graph, weights);
    const options = {
      executionProviders: this.device === "cpu" ? ["cpu"] : [this.device, "cpu"],
      intraOpNumThreads: this.threads,
      graphOptimizationLevel: "all",
      // Patterned arenas keep the peak of every buffer; without them a backward pass peaks at little over half.
      enableMemPattern: false,
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
    return {
      run: async (feeds) => {
        const wire = toWire(graph, feeds);
        try {
          const results = (await this.call({ kind: "run", session, feeds: wire })) as Record<string, WireTensor>;
          return Object.fromEntries(
            Object.entries(graph.outputs).map(([name, { shape, dtype }]) => [
              name,
              { shape, dtype, data: (results[name] as WireTensor).data },
            ]),
          );
        } catch (error) {
          throw new Error(`${graph.name}: ${(error as Error).message}`);
        }
      },
      release: async () => {
        if (!this.closed) await this.call({ kind: "release", session });
      },
    };
  }

  async close(): Promise<void> {
    this.closed = true;
    await this.worker.terminate();
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

function toWire(graph: Graph, feeds: Readonly<Record<string, HostTensor>>): Record<string, WireTensor> {
  const unknown = Object.keys(feeds).find((name) => !(name in graph.inputs));
  if (unknown)
    throw new TypeError(`${graph.name}: has no input ${unknown}; it has ${Object.keys(graph.inputs).join(", ")}`);
  return Object.fromEntries(
    Object.entries(graph.inputs).map(([name, expected]: [string, TensorType]) => {
      const fed = feeds[name];
      if (!fed || fed.dtype !== expected.dtype || !sameShape(fed.shape, expected.shape)) {
        const got = fed ? showType(fed) : "nothing";
        throw new TypeError(`${graph.name}: input ${name} expects ${showType(expected)}, got ${got}`);
      }
      return [name, { type: fed.dtype, data: fed.data, dims: fed.shape }];
    }),
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
      `--device ${runtime.device}: this machine cannot run it (${(error as Error).message.split("\n")[0]}). Use --device cpu.`,
    );
  }
}
