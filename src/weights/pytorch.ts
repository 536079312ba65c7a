/**
 * What `torch.save` writes: `.pt`, `.pth`, `.ckpt`, `.bin`. Two layouts are about:
 *
 * - a zip (PyTorch 1.6 and later) of `data.pkl`, a pickle of everything but the tensors' elements, and of `data/<key>`,
 *   each one storage: a flat array that one or more tensors look into;
 * - before that, five pickles (magic, version, platform, data, keys of the storages), then each storage after its length.
 *
 * Either way storages lie in the file as they are, so tensors are used in place, as those of a safetensors file are.
 * Nothing in a file is trusted and nothing of it is run (`pickle.ts`). Beside what `pytorch-tensors.ts` allows for
 * tensors, a pickle takes at most MOST_PICKLE_BYTES and what its steps can build.
 */
import { type FileHandle, realpath } from "node:fs/promises";
import { InputError, quote } from "../errors/index.js";
import { asInputError, readFully, withFile } from "../io/files.js";
import { type PickleOptions, type PickleValue, unpickle } from "./pickle.js";
import { PickledTensor, type StorageType, storageOf, TORCH_NAMES } from "./pytorch-pickle.js";
import { placeTensors, type StoragePlace } from "./pytorch-tensors.js";
import type { WeightFile } from "./source.js";
import { readEntry, readZipDirectory } from "./zip.js";

/** A checkpoint's pickle takes a few hundred bytes a tensor. */
const MOST_PICKLE_BYTES = 32 * 2 ** 20;

/** The first and second of the older layout's pickles. */
const LEGACY_MAGIC = 0x1950a86a20f9469cfc6cn;
const LEGACY_VERSION = 1001;

export async function openPytorch(path: string): Promise<WeightFile> {
  const realPath = await realpath(path).catch((error) => {
    throw asInputError(error, path, "read");
  });
  return withFile(realPath, async (file, fileBytes) => {
    const start = new Uint8Array(Math.min(16, fileBytes));
    await readFully(file, start, 0, path);
    refuseOtherFormats(start, fileBytes, path);
    const isZip = start[0] === 0x50 && start[1] === 0x4b; // PK
    const { root, storages } = await (isZip ? readZip : readLegacy)(file, fileBytes, path);
    const tensors = await placeTensors(namedTensors(root, path), { file, fileBytes, realPath, path, storages });
    return { path: realPath, describe: path, get: (name) => tensors.get(name), names: () => tensors.keys() };
  });
}

/** What is most often found under these names instead. */
function refuseOtherFormats(start: Uint8Array, fileBytes: number, path: string): void {
  const text = Buffer.from(start).toString("latin1");
  if (fileBytes < 16)
    throw new InputError(
      "file-malformed",
      `${path}: has only ${fileBytes} bytes, too few for weights. Fetch it again.`,
    );
  if (text.startsWith("version ")) {
    throw new InputError(
      "file-malformed",
      `${path}: is a Git LFS pointer, not the weights themselves. Run \`git lfs pull\` in its folder.`,
    );
  }
  if (/^\s*<(!doctype|html)/i.test(text)) {
    throw new InputError(
      "file-malformed",
      `${path}: is a web page, not weights. Fetch it again, perhaps after signing in.`,
    );
  }
}

interface Contents {
  readonly root: PickleValue;
  readonly storages: ReadonlyMap<string, StoragePlace>;
}

const BIG_ENDIAN = "was written on a big-endian machine. Save it there as safetensors.";

async function readZip(file: FileHandle, fileBytes: number, path: string): Promise<Contents> {
  const entries = await readZipDirectory(file, fileBytes, path);
  const pickle = [...entries.values()].find(({ name }) => /^[^/]+\/data\.pkl$/.test(name));
  if (!pickle)
    throw new InputError(
      "file-malformed",
      `${path}: is a zip without a data.pkl, not weights as torch.save writes them.`,
    );
  const folder = pickle.name.slice(0, -"data.pkl".length);
  if (entries.has(`${folder}constants.pkl`)) {
    throw new InputError(
      "file-malformed",
      `${path}: holds a program (TorchScript), not only weights. Load it with torch.jit.load and save its state_dict.`,
    );
  }
  if (pickle.bytes > MOST_PICKLE_BYTES) {
    throw new InputError(
      "file-malformed",
      `${path}: ${quote(pickle.name)} in it takes ${pickle.bytes} bytes; what describes weights takes at most ${MOST_PICKLE_BYTES}.`,
    );
  }
  const order = entries.get(`${folder}byteorder`);
  if (order?.bytes === 3 && Buffer.from(await readEntry(file, order, path)).toString("latin1") === "big") {
    throw new InputError("file-malformed", `${path}: ${BIG_ENDIAN}`);
  }
  const { value } = unpickle(await readEntry(file, pickle, path), {
    where: path,
    names: TORCH_NAMES,
    persistent: storageOf,
  });
  const prefix = `${folder}data/`;
  const storages = new Map<string, StoragePlace>();
  for (const entry of entries.values()) {
    if (!entry.name.startsWith(prefix)) continue;
    const at = entry.compressed ? { packed: entry } : { offset: entry.offset };
    storages.set(entry.name.slice(prefix.length), { bytes: entry.bytes, at });
  }
  return { root: value, storages };
}

async function readLegacy(file: FileHandle, fileBytes: number, path: string): Promise<Contents> {
  const start = new Uint8Array(Math.min(fileBytes, MOST_PICKLE_BYTES));
  await readFully(file, start, 0, path);
  const types = new Map<PickleValue, StorageType>();
  const persistent: PickleOptions["persistent"] = (id, context) => {
    const storage = storageOf(id, context);
    if ((types.get(storage.key) ?? storage.type) !== storage.type) {
      return context.fail(`storage ${quote(storage.key)} has two element types`);
    }
    types.set(storage.key, storage.type);
    return storage;
  };
  let at = 0;
  const next = (): PickleValue => {
    const { value, end } = unpickle(start, { where: path, names: TORCH_NAMES, persistent }, at);
    at = end;
    return value;
  };
  if (next() !== LEGACY_MAGIC || next() !== LEGACY_VERSION) {
    throw new InputError("file-malformed", `${path}: is a pickle, but not of weights as torch.save writes them.`);
  }
  const platform = next();
  if (platform instanceof Map && platform.get("little_endian") === false)
    throw new InputError("file-malformed", `${path}: ${BIG_ENDIAN}`);
  const root = next();
  const keys = next();
  if (!Array.isArray(keys))
    throw new InputError("file-malformed", `${path}: has no list of its storages. Fetch it again.`);

  const storages = new Map<string, StoragePlace>();
  for (const key of keys as PickleValue[]) {
    const type = types.get(key);
    if (typeof key !== "string" || !type || storages.has(key)) {
      throw new InputError("file-malformed", `${path}: lists a storage that it does not have. Fetch it again.`);
    }
    // The number of elements, then the elements.
    const length = new DataView(new ArrayBuffer(8));
    if (at + 8 <= fileBytes) await readFully(file, new Uint8Array(length.buffer), at, path);
    at += 8;
    const bytes = Number(length.getBigInt64(0, true)) * type.bytesPerElement;
    if (bytes < 0 || at + bytes > fileBytes) {
      throw new InputError(
        "file-malformed",
        `${path}: is truncated: it ends inside storage ${quote(key)}. Fetch it again.`,
      );
    }
    storages.set(key, { bytes, at: { offset: at } });
    at += bytes;
  }
  return { root, storages };
}

/** The mapping of names to tensors: at the top, or under `state_dict` in the checkpoint of a training run. */
function namedTensors(root: PickleValue, path: string): Map<string, PickledTensor> {
  const inner = root instanceof Map ? root.get("state_dict") : undefined;
  for (const candidate of [inner, root]) {
    if (!(candidate instanceof Map)) continue;
    const named = new Map<string, PickledTensor>();
    for (const [name, value] of candidate) {
      if (typeof name === "string" && value instanceof PickledTensor) named.set(name, value);
    }
    if (named.size > 0) return named;
  }
  const keys = root instanceof Map ? [...root.keys()].filter((key) => typeof key === "string").slice(0, 10) : [];
  const found = keys.length > 0 ? `found: ${keys.map(quote).join(", ")}` : "its top is no dict with names";
  throw new InputError(
    "file-malformed",
    `${path}: has no named tensors, neither at its top nor under "state_dict"; ${found}. Save the model's state_dict.`,
  );
}
