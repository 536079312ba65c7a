// @ts-check
/**
 * The thread that runs ONNX Runtime, which blocks it. The main thread stays free for progress, signals and servers.
 * This is plain JavaScript because a worker starts from a file, which is the same in `src` and `dist`.
 */
import { parentPort } from "node:worker_threads";
import ort from "onnxruntime-node";

/** @typedef {import("./protocol.js").Request} Request */
/** @typedef {import("./protocol.js").Reply} Reply */
/** @typedef {import("./protocol.js").WireTensor} WireTensor */

if (!parentPort) throw new Error("runtime worker: must be started as a worker thread");
const port = parentPort;

// Errors are thrown as exceptions, so ONNX Runtime need not write them to stderr.
ort.env.logLevel = "fatal";

/** @type {Map<number, ort.InferenceSession>} */
const sessions = new Map();
/** @type {Map<number, Record<string, ort.Tensor>>} */
const kept = new Map();
let nextId = 0;

/** @param {Request} request */
async function handle(request) {
  switch (request.kind) {
    case "create": {
      const session = await ort.InferenceSession.create(request.model, request.options);
      sessions.set(nextId, session);
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
      const session = sessions.get(request.session);
      sessions.delete(request.session);
      await session?.release();
      return undefined;
    }
    case "releaseSaved": {
      kept.delete(request.kept);
      return undefined;
    }
    case "close": {
      process.exit();
    }
  }
}

/** @param {Pick<Extract<Request, { kind: "run" }>, "session" | "feeds" | "kept">} request */
async function run({ session: id, feeds, kept: keptId }) {
  const session = sessions.get(id);
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

port.on("message", async (/** @type {{ id: number, request: Request }} */ { id, request }) => {
  /** @type {Reply} */
  let reply;
  try {
    reply = { id, result: await handle(request) };
  } catch (error) {
    reply = { id, error: error instanceof Error ? error.message : String(error) };
  }
  port.postMessage(reply);
});
