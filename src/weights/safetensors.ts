import { realpath } from "node:fs/promises";
import { InputError, quote } from "../errors/index.js";
import { writeFileAtomic } from "../io/atomic.js";
import { asInputError, decodeUtf8, readFully, withFile } from "../io/files.js";
import { parseJson } from "../io/json.js";
import { isRecord } from "../io/record.js";
import { BYTES_PER_ELEMENT, type DType } from "../tensor/dtype.js";
import type { HostTensor } from "../tensor/host.js";
import { showShape, sizeOf } from "../tensor/shape.js";
import { MAX_RANK, type StoredTensor, type WeightFile } from "./source.js";

/**
 * The safetensors format: the length of the header (8 bytes, little-endian), the header (JSON: name → dtype, shape and
 * data_offsets), then the elements. https://huggingface.co/docs/safetensors
 *
 * Opening a file reads its header only. The header is not trusted: every length, shape and offset is checked against
 * the size of the file.
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

/** The limit that the format itself sets. */
const MAX_HEADER_BYTES = 100_000_000;

type FileTensor = StoredTensor & { readonly kind: "file" };

/** @throws InputError when the file cannot be read, is not a safetensors file, or is damaged */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const realPath = await realpath(path).catch((error) => {
    throw asInputError(error, path, "read");
  });
  return withFile(realPath, async (file, fileBytes) => {
    const start = new Uint8Array(Math.min(8, fileBytes));
    await readFully(file, start, 0, path);
    const headerBytes = headerLength(start, fileBytes, path);
    const header = new Uint8Array(headerBytes);
    await readFully(file, header, 8, path);
    const { tensors, metadata } = parseHeader(header, realPath, path);
    checkRanges(tensors, fileBytes, path);
    return { path: realPath, describe: path, metadata, get: (name) => tensors.get(name), names: () => tensors.keys() };
  });
}

function headerLength(start: Uint8Array, fileBytes: number, path: string): number {
  if (start.length < 8) {
    throw new InputError(
      "file-malformed",
      `${path}: has only ${fileBytes} bytes, but a safetensors file starts with an 8-byte length. Download it again.`,
      { path, found: fileBytes, expected: 8 },
    );
  }
  if (new TextDecoder().decode(start) === "version ") {
    throw new InputError(
      "file-malformed",
      `${path}: is a Git LFS pointer, not the weights. Run \`git lfs pull\` in its folder.`,
      { path, found: "Git LFS pointer" },
    );
  }
  const length = new DataView(start.buffer).getBigUint64(0, true);
  if (length > MAX_HEADER_BYTES) {
    throw new InputError(
      "file-malformed",
      `${path}: is not a safetensors file. Its first 8 bytes give the header ${length} bytes, ` +
        `but the format allows at most ${MAX_HEADER_BYTES}.`,
      { path, found: Number(length), expected: MAX_HEADER_BYTES },
    );
  }
  const missing = Number(length) + 8 - fileBytes;
  if (missing > 0) {
    throw new InputError(
      "file-malformed",
      `${path}: is truncated inside its header: ${missing} of the header's ${length} bytes are missing. ` +
        "Download it again.",
      { path, missing, expected: Number(length) },
    );
  }
  return Number(length);
}

function parseHeader(bytes: Uint8Array, realPath: string, path: string) {
  const json = decodeUtf8(bytes, `${path}: header`);
  const header = parseJson(json, `${path}: header`);
  if (!isRecord(header)) {
    throw new InputError("file-malformed", `${path}: the header is not a JSON object. Download the file again.`, {
      path,
      expected: "a JSON object",
    });
  }
  const names = Object.keys(header);
  // JSON.parse silently keeps the last of several equal names.
  const repeated = repeatedName(json);
  if (repeated !== undefined) {
    throw new InputError(
      "file-malformed",
      `${path}: the header names the tensor ${quote(repeated)} twice. Save the file again with a current tool.`,
      { path, tensor: repeated },
    );
  }

  const tensors = new Map<string, FileTensor>();
  let metadata: Record<string, string> = {};
  for (const name of names) {
    if (name === "__metadata__") metadata = parseMetadata(header[name], path);
    else tensors.set(name, { ...parseEntry(header[name], 8 + bytes.length, path, name), path: realPath });
  }
  return { tensors, metadata };
}

function parseMetadata(value: unknown, path: string): Record<string, string> {
  if (!isRecord(value) || !Object.values(value).every((text) => typeof text === "string")) {
    throw new InputError("file-malformed", `${path}: header: __metadata__ must map names to strings.`, {
      path,
      key: "__metadata__",
      found: quote(value),
    });
  }
  return value as Record<string, string>;
}

function parseEntry(entry: unknown, dataStart: number, path: string, tensor: string): Omit<FileTensor, "path"> {
  const where = `${path}: tensor ${quote(tensor)}`;
  if (!isRecord(entry)) {
    throw new InputError("file-malformed", `${where}: must be an object with dtype, shape and data_offsets.`, {
      path,
      tensor,
      found: quote(entry),
    });
  }
  const dtype = DTYPES.get(entry.dtype);
  if (!dtype) {
    const expected = [...DTYPES.keys()] as string[];
    throw new InputError(
      "file-unsupported",
      `${where}: dtype ${quote(entry.dtype)} is not supported; convert it to one of ${expected.join(", ")}.`,
      { path, tensor, key: "dtype", found: quote(entry.dtype), expected },
    );
  }
  const shape = entry.shape;
  if (!isListOfCounts(shape) || shape.length > MAX_RANK) {
    throw new InputError(
      "file-malformed",
      `${where}: shape ${quote(shape)} is not a list of at most ${MAX_RANK} whole numbers.`,
      { path, tensor, key: "shape", found: quote(shape) },
    );
  }
  const offsets = entry.data_offsets;
  if (!isListOfCounts(offsets) || offsets.length !== 2) {
    throw new InputError(
      "file-malformed",
      `${where}: data_offsets ${quote(offsets)} is not a pair of whole numbers [begin, end].`,
      { path, tensor, key: "data_offsets", found: quote(offsets) },
    );
  }
  const [begin, end] = offsets as [number, number];
  const length = sizeOf(shape) * BYTES_PER_ELEMENT[dtype];
  if (end - begin !== length) {
    throw new InputError(
      "file-malformed",
      `${where}: ${entry.dtype} ${showShape(shape)} takes ${length} bytes, but data_offsets [${begin}, ${end}] ` +
        `span ${end - begin}. Download the file again.`,
      { path, tensor, dtype: entry.dtype as string, shape, expected: length, found: end - begin },
    );
  }
  return { kind: "file", dtype, shape: Object.freeze([...shape]), offset: dataStart + begin, length };
}

/** Checks that each tensor lies inside the file and that no two share bytes. Gaps between tensors are harmless. */
function checkRanges(tensors: ReadonlyMap<string, FileTensor>, fileBytes: number, path: string): void {
  let last: { name: string; end: number } | undefined;
  const inOrder = [...tensors].filter(([, tensor]) => tensor.length > 0).sort(([, a], [, b]) => a.offset - b.offset);
  for (const [name, { offset, length }] of inOrder) {
    if (last && offset < last.end) {
      const overlap = Math.min(last.end, offset + length) - offset;
      throw new InputError(
        "file-malformed",
        `${path}: tensors ${quote(last.name)} and ${quote(name)} overlap by ${overlap} bytes. ` +
          "Download it again, or save it again with a current tool.",
        { path, tensors: [last.name, name], overlap },
      );
    }
    last = { name, end: offset + length };
  }
  const missing = (last?.end ?? 0) - fileBytes;
  if (missing > 0) {
    const lost = inOrder.filter(([, { offset, length }]) => offset + length > fileBytes).map(([name]) => name);
    throw new InputError(
      "file-malformed",
      `${path}: is truncated: ${missing} bytes are missing at the end. ${lost.length} of ${tensors.size} tensors are ` +
        `incomplete, the first of them ${quote(lost[0])}. Download it again.`,
      { path, missing, tensor: lost[0], incomplete: lost.length, total: tensors.size },
    );
  }
}

/** The first name that occurs twice at the top level of a JSON object. `json` must be valid. */
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

/** Writes the file atomically: after a failure there is either the old file or none. */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, HostTensor>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  await writeFileAtomic(path, safetensorsChunks(tensors, metadata));
}

/**
 * The content of a safetensors file, in pieces that share memory with the tensors. The widest types come first and the
 * header is padded to 8 bytes, so that every tensor is aligned to its type and can be mapped. Tensors of one type are
 * sorted by name, so that equal tensors give equal bytes.
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
      throw new RangeError(
        `safetensorsChunks: ${name} has ${data.length} elements, but its shape is ${showShape(shape)}`,
      );
    }
    if (name === "__metadata__") throw new RangeError("safetensorsChunks: a tensor cannot be named __metadata__");
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
