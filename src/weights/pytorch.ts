/**
 * Reads what `torch.save` writes: `.pt`, `.pth`, `.ckpt`, `.bin`. There are two layouts:
 *
 * - a zip (PyTorch 1.6 and later) of `data.pkl`, which is a pickle of everything except the elements of the tensors,
 *   and of one `data/<key>` for each storage. A storage is a flat array that one or more tensors are views of.
 * - before 1.6, five pickles (magic number, version, platform, data, keys of the storages), then each storage, preceded
 *   by its length.
 *
 * In both layouts storages are usually uncompressed, so tensors are used in place, as those of a safetensors file are.
 * Nothing in a file is trusted, and none of its code is run (see `pickle.ts`). Memory is bounded: a pickle takes at
 * most MAX_PICKLE_BYTES and what its steps can build, and tensors take what `pytorch-tensors.ts` allows.
 */
import { type FileHandle, realpath } from "node:fs/promises";
import { InputError, quote } from "../errors/index.js";
import { asInputError, readFully, withFile } from "../io/files.js";
import { unpickle } from "./pickle.js";
import type { PickleValue } from "./pickle-values.js";
import { PickledTensor, type StorageType, storageOf, TORCH_NAMES } from "./pytorch-pickle.js";
import { locateTensors, type StorageLocation } from "./pytorch-tensors.js";
import type { WeightFile } from "./source.js";
import type { PickleOptions } from "./unpickler.js";
import { readEntry, readZipDirectory } from "./zip.js";

/** The pickle of a checkpoint takes a few hundred bytes per tensor. */
const MAX_PICKLE_BYTES = 32 * 2 ** 20;

/** The values of the first two pickles of the older layout. */
const LEGACY_MAGIC = 0x1950a86a20f9469cfc6cn;
const LEGACY_VERSION = 1001;

/** @throws InputError when the file cannot be read, is not a PyTorch file, is damaged, or asks for code to be run */
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
    const tensors = await locateTensors(namedTensors(root, path), { file, fileBytes, realPath, path, storages });
    return { path: realPath, describe: path, get: (name) => tensors.get(name), names: () => tensors.keys() };
  });
}

/** Recognizes what is most often found in place of the weights. */
function refuseOtherFormats(start: Uint8Array, fileBytes: number, path: string): void {
  const text = Buffer.from(start).toString("latin1");
  if (fileBytes < 16) {
    throw new InputError(
      "file-malformed",
      `${path}: has only ${fileBytes} bytes, too few for a PyTorch file. Download it again.`,
      { path, found: fileBytes, expected: 16 },
    );
  }
  if (text.startsWith("version ")) {
    throw new InputError(
      "file-malformed",
      `${path}: is a Git LFS pointer, not the weights. Run \`git lfs pull\` in its folder.`,
      { path, found: "Git LFS pointer" },
    );
  }
  if (/^\s*<(!doctype|html)/i.test(text)) {
    throw new InputError(
      "file-malformed",
      `${path}: is a web page, not weights. Download it again, perhaps after signing in.`,
      { path, found: "web page" },
    );
  }
}

function bigEndian(path: string): InputError {
  return new InputError(
    "file-unsupported",
    `${path}: was written on a big-endian machine. Convert it to safetensors on that machine.`,
    { path, found: "big-endian" },
  );
}

interface Contents {
  readonly root: PickleValue;
  readonly storages: ReadonlyMap<string, StorageLocation>;
}

async function readZip(file: FileHandle, fileBytes: number, path: string): Promise<Contents> {
  const entries = await readZipDirectory(file, fileBytes, path);
  const pickle = [...entries.values()].find(({ name }) => /^[^/]+\/data\.pkl$/.test(name));
  if (!pickle) {
    throw new InputError(
      "file-malformed",
      `${path}: is a zip without a data.pkl, so torch.save did not write it. Is it the right file?`,
      { path, missing: "data.pkl" },
    );
  }
  const folder = pickle.name.slice(0, -"data.pkl".length);
  if (entries.has(`${folder}constants.pkl`)) {
    throw new InputError(
      "file-unsupported",
      `${path}: holds a program (TorchScript), not only weights. Load it with torch.jit.load and save its state_dict.`,
      { path, found: "TorchScript" },
    );
  }
  if (pickle.bytes > MAX_PICKLE_BYTES) {
    throw new InputError(
      "file-too-large",
      `${path}: ${quote(pickle.name)} in this zip takes ${pickle.bytes} bytes, but the description of weights takes at ` +
        `most ${MAX_PICKLE_BYTES}. Save the model's state_dict alone.`,
      { path, entry: pickle.name, found: pickle.bytes, expected: MAX_PICKLE_BYTES },
    );
  }
  const order = entries.get(`${folder}byteorder`);
  if (order?.bytes === 3 && Buffer.from(await readEntry(file, order, path)).toString("latin1") === "big") {
    throw bigEndian(path);
  }
  const { value } = unpickle(await readEntry(file, pickle, path), {
    where: path,
    names: TORCH_NAMES,
    persistent: storageOf,
  });
  const prefix = `${folder}data/`;
  const storages = new Map<string, StorageLocation>();
  for (const entry of entries.values()) {
    if (!entry.name.startsWith(prefix)) continue;
    const at = entry.compressed ? { packed: entry } : { offset: entry.offset };
    storages.set(entry.name.slice(prefix.length), { bytes: entry.bytes, at });
  }
  return { root: value, storages };
}

async function readLegacy(file: FileHandle, fileBytes: number, path: string): Promise<Contents> {
  const start = new Uint8Array(Math.min(fileBytes, MAX_PICKLE_BYTES));
  await readFully(file, start, 0, path);
  const types = new Map<PickleValue, StorageType>();
  const persistent: PickleOptions["persistent"] = (id, context) => {
    const storage = storageOf(id, context);
    if ((types.get(storage.key) ?? storage.type) !== storage.type) {
      return context.fail(`storage ${quote(storage.key)} has two element types`, { storage: storage.key });
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
    throw new InputError(
      "file-malformed",
      `${path}: is a pickle, but torch.save did not write it. Load it in Python and save its tensors as safetensors.`,
      { path, found: "pickle" },
    );
  }
  const platform = next();
  if (platform instanceof Map && platform.get("little_endian") === false) throw bigEndian(path);
  const root = next();
  const keys = next();
  if (!Array.isArray(keys)) {
    throw new InputError("file-malformed", `${path}: has no list of its storages. Download it again.`, {
      path,
      missing: "list of storages",
    });
  }

  const storages = new Map<string, StorageLocation>();
  for (const key of keys as PickleValue[]) {
    const type = types.get(key);
    if (typeof key !== "string" || !type || storages.has(key)) {
      const shown = typeof key === "string" ? quote(key) : "an entry that is not a string";
      throw new InputError(
        "file-malformed",
        `${path}: the list of storages is damaged: ${shown} is listed twice, or is not a storage that the pickle ` +
          "refers to. Download it again.",
        { path, storage: typeof key === "string" ? key : undefined },
      );
    }
    // A storage is its number of elements, then the elements.
    const length = new DataView(new ArrayBuffer(8));
    if (at + 8 <= fileBytes) await readFully(file, new Uint8Array(length.buffer), at, path);
    at += 8;
    const bytes = Number(length.getBigInt64(0, true)) * type.bytesPerElement;
    if (bytes < 0 || at + bytes > fileBytes) {
      throw new InputError(
        "file-malformed",
        `${path}: is truncated: it ends inside storage ${quote(key)}. Download it again.`,
        { path, storage: key },
      );
    }
    storages.set(key, { bytes, at: { offset: at } });
    at += bytes;
  }
  return { root, storages };
}

/** The tensors by name, at the top level or, in the checkpoint of a training run, under `state_dict`. */
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
  const keys = root instanceof Map ? [...root.keys()].filter((key): key is string => typeof key === "string") : [];
  const shown = keys.slice(0, 10);
  const found =
    shown.length > 0 ? `found: ${shown.map(quote).join(", ")}` : "its top level is not a dict with string keys";
  throw new InputError(
    "tensor-missing",
    `${path}: has no named tensors, neither at its top level nor under "state_dict"; ${found}. ` +
      "Save the model's state_dict.",
    { path, found: shown },
  );
}
