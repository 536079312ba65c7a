import { realpath } from "node:fs/promises";
import { InputError, quote } from "../errors/index.js";
import { writeFileAtomic } from "../io/atomic.js";
import { asInputError, decodeUtf8, readFully, withFile } from "../io/files.js";
import { parseJson } from "../io/json.js";
import { isRecord } from "../io/record.js";
import { BYTES_PER_ELEMENT, type DType } from "../tensor/dtype.js";
import type { HostTensor } from "../tensor/host.js";
import { showShape, sizeOf } from "../tensor/shape.js";
import { HIGHEST_RANK, type StoredTensor, type WeightFile } from "./source.js";

/**
 * The safetensors format: 8 bytes with the header's length (little-endian), the header (JSON: name → dtype, shape and
 * place), then the elements. https://huggingface.co/docs/safetensors
 *
 * Only the header is read here, and nothing in it is trusted: every length, shape and place is checked against the file.
 */
export interface SafetensorsFile extends WeightFile {
  readonly metadata: Readonly<Record<string, string>>;
}

const DTYPES: ReadonlyMap<unknown, DType> = new Map<string, DType>([
  ["F64", "float64"],
  ["F32", "float32"],
  ["F16", "float16"],
  ["BF16", "bfloat16"],
  ["I64", "int64"],
  ["I32", "int32"],
  ["U8", "uint8"],
  ["I8", "int8"],
  ["BOOL", "bool"],
]);
const DTYPE_NAMES = new Map([...DTYPES].map(([name, dtype]) => [dtype, name]));

/** The format's own bound. */
const MOST_HEADER_BYTES = 100_000_000;

type FileTensor = StoredTensor & { readonly kind: "file" };

export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const real = await realpath(path).catch((error) => {
    throw asInputError(error, path, "read");
  });
  return withFile(real, async (file, fileBytes) => {
    const start = new Uint8Array(Math.min(8, fileBytes));
    await readFully(file, start, 0, path);
    const headerBytes = headerLength(start, fileBytes, path);
    const header = new Uint8Array(headerBytes);
    await readFully(file, header, 8, path);
    const { tensors, metadata } = parseHeader(header, real, path);
    checkPlaces(tensors, fileBytes, path);
    return { path: real, describe: path, metadata, get: (name) => tensors.get(name), names: () => tensors.keys() };
  });
}

function headerLength(start: Uint8Array, fileBytes: number, path: string): number {
  if (start.length < 8) {
    throw new InputError(
      "file-malformed",
      `${path}: has only ${fileBytes} bytes, too few for a safetensors file. Fetch it again.`,
    );
  }
  if (new TextDecoder().decode(start) === "version ") {
    throw new InputError(
      "file-malformed",
      `${path}: is a Git LFS pointer, not the weights themselves. Run \`git lfs pull\` in its folder.`,
    );
  }
  const length = new DataView(start.buffer).getBigUint64(0, true);
  if (length > MOST_HEADER_BYTES) {
    throw new InputError(
      "file-malformed",
      `${path}: is not a safetensors file: its first 8 bytes ask for a header of ${length} bytes.`,
    );
  }
  const missing = Number(length) + 8 - fileBytes;
  if (missing > 0) {
    throw new InputError(
      "file-malformed",
      `${path}: is truncated inside its header: ${missing} of the header's ${length} bytes are missing. Fetch it again.`,
    );
  }
  return Number(length);
}

function parseHeader(bytes: Uint8Array, realPath: string, path: string) {
  const json = decodeUtf8(bytes, `${path}: header`);
  const header = parseJson(json, `${path}: header`);
  if (!isRecord(header)) throw new InputError("file-malformed", `${path}: header is not a JSON object.`);
  const names = Object.keys(header);
  // JSON.parse keeps the last of several equal names in silence.
  const repeated = repeatedName(json);
  if (repeated !== undefined)
    throw new InputError("file-malformed", `${path}: header names the tensor ${quote(repeated)} twice.`);

  const tensors = new Map<string, FileTensor>();
  let metadata: Record<string, string> = {};
  for (const name of names) {
    if (name === "__metadata__") metadata = parseMetadata(header[name], path);
    else tensors.set(name, parseEntry(header[name], 8 + bytes.length, realPath, `${path}: tensor ${quote(name)}`));
  }
  return { tensors, metadata };
}

function parseMetadata(value: unknown, path: string): Record<string, string> {
  if (!isRecord(value) || !Object.values(value).every((text) => typeof text === "string")) {
    throw new InputError("file-malformed", `${path}: header: __metadata__ must map names to strings.`);
  }
  return value as Record<string, string>;
}

function parseEntry(entry: unknown, dataStart: number, path: string, where: string): FileTensor {
  if (!isRecord(entry))
    throw new InputError("file-malformed", `${where}: must be an object with dtype, shape and data_offsets.`);
  const dtype = DTYPES.get(entry.dtype);
  if (!dtype) {
    const known = [...DTYPES.keys()].join(", ");
    throw new InputError(
      "file-malformed",
      `${where}: dtype ${quote(entry.dtype)} is not supported; convert it to one of ${known}.`,
    );
  }
  const shape = entry.shape;
  if (!isListOfCounts(shape) || shape.length > HIGHEST_RANK) {
    throw new InputError(
      "file-malformed",
      `${where}: shape ${quote(shape)} is not a list of at most ${HIGHEST_RANK} whole numbers.`,
    );
  }
  const offsets = entry.data_offsets;
  if (!isListOfCounts(offsets) || offsets.length !== 2) {
    throw new InputError(
      "file-malformed",
      `${where}: data_offsets ${quote(offsets)} is not a pair of whole numbers [begin, end].`,
    );
  }
  const [begin, end] = offsets as [number, number];
  const needed = sizeOf(shape) * BYTES_PER_ELEMENT[dtype];
  if (end - begin !== needed) {
    throw new InputError(
      "file-malformed",
      `${where}: ${entry.dtype} ${showShape(shape)} takes ${needed} bytes, but data_offsets [${begin}, ${end}] hold ${end - begin}.`,
    );
  }
  return { kind: "file", dtype, shape: Object.freeze([...shape]), path, offset: dataStart + begin, length: needed };
}

/** Every tensor inside the file, no two on the same bytes. Gaps between them do no harm. */
function checkPlaces(tensors: ReadonlyMap<string, FileTensor>, fileBytes: number, path: string): void {
  let last: { name: string; end: number } | undefined;
  const inOrder = [...tensors].filter(([, tensor]) => tensor.length > 0).sort(([, a], [, b]) => a.offset - b.offset);
  for (const [name, { offset, length }] of inOrder) {
    if (last && offset < last.end) {
      throw new InputError(
        "file-malformed",
        `${path}: tensors ${quote(last.name)} and ${quote(name)} overlap by ${Math.min(last.end, offset + length) - offset} bytes. Fetch it again, or save it again with a current tool.`,
      );
    }
    last = { name, end: offset + length };
  }
  const missing = (last?.end ?? 0) - fileBytes;
  if (missing > 0) {
    const lost = inOrder.filter(([, { offset, length }]) => offset + length > fileBytes);
    throw new InputError(
      "file-malformed",
      `${path}: is truncated: ${missing} bytes are missing at the end, and with them ${lost.length} of ${tensors.size} tensors (${quote(lost[0]?.[0])} first). Fetch it again.`,
    );
  }
}

/** A name that occurs twice at the top level of a JSON object's text, which must be valid JSON. */
function repeatedName(json: string): string | undefined {
  const seen = new Set<string>();
  let depth = 0;
  let nameFollows = false;
  for (let i = 0; i < json.length; i++) {
    switch (json[i]) {
      case "{":
      case "[":
        nameFollows = ++depth === 1;
        break;
      case "}":
      case "]":
        depth--;
        break;
      case ",":
        nameFollows = depth === 1;
        break;
      case '"': {
        const start = i++;
        while (json[i] !== '"') i += json[i] === "\\" ? 2 : 1;
        if (!nameFollows) break;
        nameFollows = false;
        const name = JSON.parse(json.slice(start, i + 1)) as string;
        if (seen.has(name)) return name;
        seen.add(name);
      }
    }
  }
  return undefined;
}

function isListOfCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((extent) => Number.isSafeInteger(extent) && extent >= 0);
}

/** Writes tensors in one go, or not at all. */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, HostTensor>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  await writeFileAtomic(path, safetensorsChunks(tensors, metadata));
}

/**
 * The bytes of a file, in pieces that share the tensors' memory. Wide types come first and the header is padded to 8
 * bytes, so that every tensor is aligned to its type and can be mapped; the order of names makes the bytes depend on
 * nothing but the content.
 */
export function safetensorsChunks(
  tensors: ReadonlyMap<string, HostTensor>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array[] {
  const inOrder = [...tensors].sort(
    ([a, x], [b, y]) => BYTES_PER_ELEMENT[y.dtype] - BYTES_PER_ELEMENT[x.dtype] || (a < b ? -1 : 1),
  );
  let offset = 0;
  const entries: [string, unknown][] = [];
  if (Object.keys(metadata).length > 0) entries.push(["__metadata__", metadata]);
  for (const [name, { dtype, shape, data }] of inOrder) {
    if (data.length !== sizeOf(shape)) {
      throw new RangeError(`writeSafetensors: ${name} has ${data.length} elements, not ${showShape(shape)}`);
    }
    if (name === "__metadata__") throw new RangeError("writeSafetensors: a tensor cannot be called __metadata__");
    const data_offsets = [offset, offset + data.byteLength];
    entries.push([name, { dtype: DTYPE_NAMES.get(dtype), shape, data_offsets }]);
    offset += data.byteLength;
  }
  const header = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  const start = new Uint8Array(8 + Math.ceil(header.length / 8) * 8).fill(0x20);
  new DataView(start.buffer).setBigUint64(0, BigInt(start.length - 8), true);
  start.set(header, 8);
  return [start, ...inOrder.map(([, { data }]) => bytesOf(data))];
}

function bytesOf(data: ArrayBufferView): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}
