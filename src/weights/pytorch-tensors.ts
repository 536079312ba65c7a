import type { FileHandle } from "node:fs/promises";
import { InputError, quote } from "../errors/index.js";
import { readFully } from "../io/files.js";
import { BYTES_PER_ELEMENT, type DType } from "../tensor/dtype.js";
import { allocate, type HostData } from "../tensor/host.js";
import { showShape, sizeOf, stridesOf } from "../tensor/shape.js";
import type { PickledTensor, StorageView } from "./pytorch-pickle.js";
import type { StoredTensor } from "./source.js";
import { readEntry, type ZipEntry } from "./zip.js";

/** Memory for tensors that must be unpacked or rearranged, beyond the size of the file. */
const MAX_EXTRA_BYTES = 256 * 2 ** 20;

/** The location of a storage: an offset in the file when it is uncompressed, or else an entry of a zip. */
export interface StorageLocation {
  readonly bytes: number;
  readonly at: { readonly offset: number } | { readonly packed: ZipEntry };
}

export interface TensorFile {
  readonly file: FileHandle;
  readonly fileBytes: number;
  readonly realPath: string;
  /** The path as the user gave it, for error messages. */
  readonly path: string;
  readonly storages: ReadonlyMap<string, StorageLocation>;
}

/**
 * Finds each tensor in the file. A tensor that is compressed or not contiguous is read into memory instead.
 *
 * @throws InputError when a view reaches outside its storage, or when the views repeat elements so often that they
 *   would fill the memory
 */
export async function locateTensors(
  named: ReadonlyMap<string, PickledTensor>,
  file: TensorFile,
): Promise<Map<string, StoredTensor>> {
  const memory = new MemoryBudget(file.fileBytes + MAX_EXTRA_BYTES, file.path);
  const unpacked = new Map<ZipEntry, Uint8Array>();
  const tensors = new Map<string, StoredTensor>();
  for (const [name, tensor] of named) {
    const checked = checkTensor(name, tensor, file);
    tensors.set(name, await locateTensor(checked, { file, memory, unpacked }));
  }
  return tensors;
}

/** A tensor whose view lies within its storage. */
interface CheckedTensor {
  readonly name: string;
  readonly view: StorageView;
  readonly dtype: DType;
  readonly location: StorageLocation;
}

function checkTensor(name: string, tensor: PickledTensor, { storages, path }: TensorFile): CheckedTensor {
  const { storage, view, elementType } = tensor;
  const { offset, shape, strides } = view;
  const { dtype } = storage.type;
  const where = `${path}: tensor ${quote(name)}`;
  if (!dtype || elementType !== undefined) {
    const found = elementType ?? storage.type.name;
    throw new InputError(
      "file-unsupported",
      `${where}: elements of type ${found} are not supported; convert it to float16 or float32.`,
      { path, tensor: name, found, expected: ["float16", "float32"] },
    );
  }
  const location = storages.get(storage.key);
  if (!location) {
    throw new InputError(
      "file-malformed",
      `${where}: its storage ${quote(storage.key)} is not in the file. Download it again.`,
      { path, tensor: name, storage: storage.key },
    );
  }
  const unit = BYTES_PER_ELEMENT[dtype];
  const end = sizeOf(shape) === 0 ? 0 : (offset + spanOf(view)) * unit;
  // `end` can be Infinity or NaN, because the extents of a hostile file may overflow.
  if (!(end <= location.bytes && end <= storage.elements * unit)) {
    throw new InputError(
      "file-malformed",
      `${where}: ${dtype} ${showShape(shape)} with strides ${showShape(strides)} from element ${offset} does not fit ` +
        `its storage of ${location.bytes} bytes. Download it again.`,
      { path, tensor: name, dtype, shape, strides, offset, expected: location.bytes },
    );
  }
  return { name, view, dtype, location };
}

interface ReadContext {
  readonly file: TensorFile;
  readonly memory: MemoryBudget;
  readonly unpacked: Map<ZipEntry, Uint8Array>;
}

async function locateTensor(
  { name, view, dtype, location: { at } }: CheckedTensor,
  { file, memory, unpacked }: ReadContext,
): Promise<StoredTensor> {
  const { shape } = view;
  const unit = BYTES_PER_ELEMENT[dtype];
  const [first, length] = [view.offset * unit, sizeOf(shape) * unit];
  if (length === 0) return { kind: "memory", dtype, shape, data: allocate(dtype, 0) };
  const contiguous = isContiguous(view);
  if (contiguous && "offset" in at) {
    return { kind: "file", dtype, shape, path: file.realPath, offset: at.offset + first, length };
  }

  const span = spanOf(view);
  memory.take(span * unit, name);
  const source = allocate(dtype, span);
  const bytes = new Uint8Array(source.buffer);
  if ("offset" in at) {
    await readFully(file.file, bytes, at.offset + first, file.path);
  } else {
    const whole = unpacked.get(at.packed) ?? (await unpack(at.packed, file, memory, name));
    unpacked.set(at.packed, whole);
    bytes.set(whole.subarray(first, first + bytes.length));
  }
  if (contiguous) return { kind: "memory", dtype, shape, data: source };
  memory.take(length, name);
  const data = allocate(dtype, sizeOf(shape));
  gather(source, view, data);
  memory.giveBack(span * unit);
  return { kind: "memory", dtype, shape, data };
}

async function unpack(
  entry: ZipEntry,
  { file, path }: TensorFile,
  memory: MemoryBudget,
  tensor: string,
): Promise<Uint8Array> {
  memory.take(entry.storedBytes + entry.bytes, tensor);
  const content = await readEntry(file, entry, path);
  memory.giveBack(entry.storedBytes);
  return content;
}

/** Bounds the memory that one file can make this process allocate. */
class MemoryBudget {
  constructor(
    private left: number,
    private readonly path: string,
  ) {}

  take(bytes: number, tensor: string): void {
    if (!(bytes <= this.left)) {
      throw new InputError(
        "file-too-large",
        `${this.path}: tensor ${quote(tensor)}: the tensors that must be unpacked or rearranged take over ` +
          `${MAX_EXTRA_BYTES} bytes more memory than the file itself. Load the file in PyTorch and save its tensors ` +
          "again, after contiguous().",
        { path: this.path, tensor, expected: MAX_EXTRA_BYTES },
      );
    }
    this.left -= bytes;
  }

  giveBack(bytes: number): void {
    this.left += bytes;
  }
}

/** The number of storage elements from the first to the last element of the view. */
function spanOf({ shape, strides }: StorageView): number {
  return shape.reduce((span, extent, axis) => span + (extent - 1) * (strides[axis] as number), 1);
}

/** Whether the view is row-major without gaps. The stride of an axis of extent 1 does not matter. */
function isContiguous({ shape, strides }: StorageView): boolean {
  return stridesOf(shape).every((stride, axis) => shape[axis] === 1 || strides[axis] === stride);
}

/** Copies the elements of a strided view to `to`, in row-major order. */
function gather(from: HostData, { shape, strides }: StorageView, to: HostData): void {
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
