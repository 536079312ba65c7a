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

/**
 * @typedef {Pick<Extract<Request, { kind: "create" }>, "model" | "options" | "mapped" | "large">} Definition
 * @typedef {{ definition: Definition, session?: ort.InferenceSession }} Program
 */

/** @type {Map<number, Program>} */
const programs = new Map();
/**
 * The large program that was used last. A program that maps its weights is unloaded when another large one is needed: each
 * session maps the file anew, and the pages of all of them would count as memory of the process. Loading it again takes 0.1 to
 * 0.3 s for a large U-Net.
 * @type {Program | undefined}
 */
let current;
/** @type {Map<number, Record<string, ort.Tensor>>} */
const kept = new Map();
let nextId = 0;

/** @param {Request} request */
async function handle(request) {
  switch (request.kind) {
    case "create": {
      const { kind, ...definition } = request;
      const program = { definition };
      await sessionOf(program);
      // Packing leaves freed copies behind.
      if (definition.large) await reclaim();
      if (!definition.mapped) program.definition = { ...definition, model: new Uint8Array() };
      programs.set(nextId, program);
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
      const program = programs.get(request.session);
      programs.delete(request.session);
      if (current === program) current = undefined;
      await program?.session?.release();
      return undefined;
    }
    case "releaseSaved": {
      kept.delete(request.kept);
      if (current) await reclaim();
      return undefined;
    }
    case "close": {
      process.exit();
    }
  }
}

/**
 * The session of a program, loaded again if it was unloaded. A large program gets the memory that others have left.
 * @param {Program} program
 */
async function sessionOf(program) {
  const { model, options, large } = program.definition;
  if (large && current !== program) {
    if (current?.definition.mapped) await unload(current);
    await reclaim();
    current = undefined;
  }
  program.session ??= await ort.InferenceSession.create(model, options);
  if (large) current = program;
  return program.session;
}

/** @param {Program} program */
async function unload(program) {
  await program.session?.release();
  delete program.session;
}

/** @param {Pick<Extract<Request, { kind: "run" }>, "session" | "feeds" | "kept">} request */
async function run({ session: id, feeds, kept: keptId }) {
  const program = programs.get(id);
  if (!program) throw new Error(`runtime worker: session ${id} was released`);
  /** @type {Record<string, ort.Tensor>} */
  const all = { ...(keptId !== undefined && kept.get(keptId)) };
  for (const [name, { type, data, dims }] of Object.entries(feeds)) {
    all[name] = new ort.Tensor(/** @type {ort.Tensor.Type} */ (type), /** @type {any} */ (data), dims);
  }
  const session = await sessionOf(program);
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
