// @ts-check
/**
 * The thread that runs ONNX Runtime, which blocks it. The main thread stays free for progress, signals and servers.
 * This is plain JavaScript because a worker starts from a file, which is the same in `src` and `dist`.
 */
import { parentPort } from "node:worker_threads";
import ort from "onnxruntime-node";
import { reclaim } from "./reclaim.js";

/** @typedef {import("./protocol.js").Request} Request */
/** @typedef {import("./protocol.js").Reply} Reply */
/** @typedef {import("./protocol.js").WireTensor} WireTensor */

if (!parentPort) throw new Error("runtime worker: must be started as a worker thread");
const port = parentPort;

// Errors are thrown as exceptions, so ONNX Runtime need not write them to stderr.
ort.env.logLevel = "fatal";

/** @typedef {Pick<Extract<Request, { kind: "create" }>, "model" | "options"> & { session?: ort.InferenceSession }} MappedProgram */

/** @type {Map<number, ort.InferenceSession>} */
const sessions = new Map();
/**
 * Programs that map their weights. One is loaded at a time: each session maps the file anew, and the pages of all of them would
 * count as memory of the process. Loading takes 0.1 to 0.3 s for a large U-Net.
 * @type {Map<number, MappedProgram>}
 */
const mapped = new Map();
/** @type {MappedProgram | undefined} */
let loaded;
/** @type {Map<number, Record<string, ort.Tensor>>} */
const kept = new Map();
let nextId = 0;

/** @param {Request} request */
async function handle(request) {
  switch (request.kind) {
    case "create": {
      const { model, options } = request;
      if (request.mapped) {
        const program = { model, options };
        await load(program);
        mapped.set(nextId, program);
      } else {
        sessions.set(nextId, await ort.InferenceSession.create(model, options));
      }
      return nextId++;
    }
    case "run": {
      return toWire(Object.entries(await run(request)));
    }
    case "runSaving": {
      const results = Object.entries(await run(request));
      const stays = (/** @type {[string, ort.Tensor]} */ [name]) => request.keep.includes(name);
      kept.set(nextId, Object.fromEntries(results.filter(stays)));
      return { outputs: toWire(results.filter((result) => !stays(result))), kept: nextId++ };
    }
    case "release": {
      const { session: id } = request;
      await sessions.get(id)?.release();
      sessions.delete(id);
      if (loaded && mapped.get(id) === loaded) await unload();
      mapped.delete(id);
      return undefined;
    }
    case "releaseSaved": {
      kept.delete(request.kept);
      if (loaded) await reclaim();
      return undefined;
    }
    case "close": {
      process.exit();
    }
  }
}

/** @param {MappedProgram} program */
async function load(program) {
  if (program.session) return program.session;
  await unload();
  await reclaim();
  program.session = await ort.InferenceSession.create(program.model, program.options);
  loaded = program;
  return program.session;
}

async function unload() {
  await loaded?.session?.release();
  if (loaded) delete loaded.session;
  loaded = undefined;
}

/** @param {Pick<Extract<Request, { kind: "run" }>, "session" | "feeds" | "kept">} request */
async function run({ session: id, feeds, kept: keptId }) {
  const program = mapped.get(id);
  const session = program ? await load(program) : sessions.get(id);
  if (!session) throw new Error(`runtime worker: session ${id} was released`);
  /** @type {Record<string, ort.Tensor>} */
  const all = { ...(keptId !== undefined && kept.get(keptId)) };
  for (const [name, { type, data, dims }] of Object.entries(feeds)) {
    all[name] = new ort.Tensor(/** @type {ort.Tensor.Type} */ (type), /** @type {any} */ (data), dims);
  }
  return await session.run(all);
}

/** @param {[string, ort.Tensor][]} tensors */
function toWire(tensors) {
  /** @type {Record<string, WireTensor>} */
  const outputs = {};
  for (const [name, tensor] of tensors) {
    const data = /** @type {WireTensor["data"]} */ (tensor.data);
    outputs[name] = { type: tensor.type, data, dims: [...tensor.dims] };
  }
  return outputs;
}

/** Requests are handled one after the other. */
let last = Promise.resolve();
port.on("message", (/** @type {{ id: number, request: Request }} */ { id, request }) => {
  last = last.then(async () => port.postMessage(await replyTo(id, request)));
});

/**
 * @param {number} id
 * @param {Request} request
 * @returns {Promise<Reply>}
 */
async function replyTo(id, request) {
  try {
    return { id, result: await handle(request) };
  } catch (error) {
    return { id, error: error instanceof Error ? error.message : String(error) };
  }
}
