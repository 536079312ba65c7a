import type { FileHandle } from "node:fs/promises";
import { InputError, quote } from "../errors/index.js";
import { readFully } from "../io/files.js";
import { BYTES_PER_ELEMENT, type DType } from "../tensor/dtype.js";
import { allocate, type HostData } from "../tensor/host.js";
import { showShape, sizeOf, stridesOf } from "../tensor/shape.js";
import type { PickledTensor } from "./pytorch-pickle.js";
import type { StoredTensor } from "./source.js";
import { readEntry, type ZipEntry } from "./zip.js";

/** Beyond the file's size, for what must be unpacked or rearranged in memory. */
const MOST_EXTRA_BYTES = 256 * 2 ** 20;

/** Where a storage's bytes lie: in the file as they are, or packed in an entry of a zip. */
export interface StoragePlace {
  readonly bytes: number;
  readonly at: { readonly offset: number } | { readonly packed: ZipEntry };
}

export interface TensorFile {
  readonly file: FileHandle;
  readonly fileBytes: number;
  readonly realPath: string;
  /** For messages. */
  readonly path: string;
  readonly storages: ReadonlyMap<string, StoragePlace>;
}

/**
 * Each tensor's place in the file; or, where its elements do not lie there in a row, its elements. Views that no file
 * needs are refused: outside their storage, or so often repeated that they would fill the memory.
 */
export async function placeTensors(
  named: ReadonlyMap<string, PickledTensor>,
  file: TensorFile,
): Promise<Map<string, StoredTensor>> {
  const memory = new Memory(file.fileBytes + MOST_EXTRA_BYTES);
  const unpacked = new Map<ZipEntry, Uint8Array>();
  const tensors = new Map<string, StoredTensor>();
  for (const [name, tensor] of named) {
    const where = `${file.path}: tensor ${quote(name)}`;
    const { dtype, place } = checkView(tensor, file, where);
    tensors.set(name, await placeTensor(tensor, dtype, place, { file, memory, unpacked, where }));
  }
  return tensors;
}

/** Type and storage of a view that lies within its storage. */
function checkView(
  tensor: PickledTensor,
  { storages }: TensorFile,
  where: string,
): { dtype: DType; place: StoragePlace } {
  const { storage, offset, shape, strides, elementType } = tensor;
  const { dtype } = storage.type;
  if (!dtype || elementType !== undefined) {
    throw new InputError(
      "file-malformed",
      `${where}: elements of type ${elementType ?? storage.type.name} are not supported; convert it to float16 or float32.`,
    );
  }
  const place = storages.get(storage.key);
  if (!place)
    throw new InputError(
      "file-malformed",
      `${where}: its storage ${quote(storage.key)} is not in the file. Fetch it again.`,
    );
  const unit = BYTES_PER_ELEMENT[dtype];
  const end = sizeOf(shape) === 0 ? 0 : (offset + spanOf(tensor)) * unit;
  // Extents from a hostile file can make this Infinity or NaN.
  if (!(end <= place.bytes && end <= storage.elements * unit)) {
    throw new InputError(
      "file-malformed",
      `${where}: ${dtype} ${showShape(shape)} with strides ${showShape(strides)} from element ${offset} on does not fit its storage of ${place.bytes} bytes. Fetch it again.`,
    );
  }
  return { dtype, place };
}

interface Workplace {
  readonly file: TensorFile;
  readonly memory: Memory;
  readonly unpacked: Map<ZipEntry, Uint8Array>;
  readonly where: string;
}

async function placeTensor(
  tensor: PickledTensor,
  dtype: DType,
  { at }: StoragePlace,
  { file, memory, unpacked, where }: Workplace,
): Promise<StoredTensor> {
  const { shape } = tensor;
  const unit = BYTES_PER_ELEMENT[dtype];
  const [first, length] = [tensor.offset * unit, sizeOf(shape) * unit];
  if (length === 0) return { kind: "memory", dtype, shape, data: allocate(dtype, 0) };
  const inRow = isContiguous(tensor);
  if (inRow && "offset" in at) {
    return { kind: "file", dtype, shape, path: file.realPath, offset: at.offset + first, length };
  }

  const span = spanOf(tensor);
  memory.take(span * unit, where);
  const source = allocate(dtype, span);
  const bytes = new Uint8Array(source.buffer);
  if ("offset" in at) {
    await readFully(file.file, bytes, at.offset + first, file.path);
  } else {
    const whole = unpacked.get(at.packed) ?? (await unpack(at.packed, file, memory, where));
    unpacked.set(at.packed, whole);
    bytes.set(whole.subarray(first, first + bytes.length));
  }
  if (inRow) return { kind: "memory", dtype, shape, data: source };
  memory.take(length, where);
  const data = allocate(dtype, sizeOf(shape));
  gather(source, tensor, data);
  memory.giveBack(span * unit);
  return { kind: "memory", dtype, shape, data };
}

async function unpack(entry: ZipEntry, { file, path }: TensorFile, memory: Memory, where: string): Promise<Uint8Array> {
  memory.take(entry.storedBytes + entry.bytes, where);
  const content = await readEntry(file, entry, path);
  memory.giveBack(entry.storedBytes);
  return content;
}

/** What a file may make this process hold. */
class Memory {
  constructor(private left: number) {}

  take(bytes: number, where: string): void {
    if (!(bytes <= this.left)) {
      throw new InputError(
        "file-malformed",
        `${where}: unpacked and rearranged, this file's tensors take over ${MOST_EXTRA_BYTES} bytes more memory than the file itself. Load it in PyTorch and save it again, its tensors made contiguous() first.`,
      );
    }
    this.left -= bytes;
  }

  giveBack(bytes: number): void {
    this.left += bytes;
  }
}

/** Elements of the storage from the view's first to its last. */
function spanOf({ shape, strides }: PickledTensor): number {
  return shape.reduce((span, extent, axis) => span + (extent - 1) * (strides[axis] as number), 1);
}

/** Row-major without gaps. The stride of an axis with one element says nothing. */
function isContiguous({ shape, strides }: PickledTensor): boolean {
  return stridesOf(shape).every((stride, axis) => shape[axis] === 1 || strides[axis] === stride);
}

/** Row-major order out of any other. */
function gather(from: HostData, { shape, strides }: PickledTensor, to: HostData): void {
  const index = shape.map(() => 0);
  let at = 0;
  for (let i = 0; i < to.length; i++) {
    to[i] = from[at] as never;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const [extent, stride] = [shape[axis] as number, strides[axis] as number];
      const next = (index[axis] as number) + 1;
      at += stride;
      index[axis] = next;
      if (next < extent) break;
      at -= extent * stride;
      index[axis] = 0;
    }
  }
}
