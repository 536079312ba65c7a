import { InputError } from "../errors/index.js";
import { readFully, withFile } from "../io/files.js";
import { BYTES_PER_ELEMENT, type DType } from "../tensor/dtype.js";
import { allocate, type HostData, type HostTensor } from "../tensor/host.js";
import { type Shape, showShape, sizeOf } from "../tensor/shape.js";

/**
 * A tensor and the location of its elements: a range of a file, which the runtime can map instead of copying it, or an
 * array in memory. `path` is absolute and has its links resolved, because ONNX Runtime refuses external weights behind
 * symbolic links.
 */
export type StoredTensor = { readonly dtype: DType; readonly shape: Shape } & (
  | { readonly kind: "file"; readonly path: string; readonly offset: number; readonly length: number }
  | { readonly kind: "memory"; readonly data: HostData }
);

/** Tensors by name, from a file, several files or memory. */
export interface WeightSource {
  get(name: string): StoredTensor | undefined;
  names(): Iterable<string>;
  /** Name of this source in error messages, usually its path. */
  readonly describe: string;
}

/** One file of tensors. */
export interface WeightFile extends WeightSource {
  /** Absolute path with links resolved. */
  readonly path: string;
  /** The `__metadata__` entry of a safetensors header. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/** Far above the rank of any real tensor. It bounds the product of the extents that a hostile file declares. */
export const MAX_RANK = 16;

/**
 * A weight source of tensors in memory, such as the weights of a reward made in code.
 *
 * @param describe name of the source in error messages
 * @example
 * const weights = fromTensors(new Map([["reward.bias", { dtype: "float32", shape: [1], data: Float32Array.of(0.5) }]]));
 */
export function fromTensors(tensors: ReadonlyMap<string, HostTensor>, describe = "tensors in memory"): WeightSource {
  return {
    describe,
    names: () => tensors.keys(),
    get(name) {
      const tensor = tensors.get(name);
      return tensor && { kind: "memory", dtype: tensor.dtype, shape: tensor.shape, data: tensor.data };
    },
  };
}

/** The same tensors with `prefix` in front of each name: `conv_in.weight` → `unet.conv_in.weight`. */
export function withPrefix(source: WeightSource, prefix: string): WeightSource {
  return {
    describe: source.describe,
    get: (name) => (name.startsWith(prefix) ? source.get(name.slice(prefix.length)) : undefined),
    *names() {
      for (const name of source.names()) yield prefix + name;
    },
  };
}

/** All tensors of several sources. When two sources have a tensor of the same name, the first wins. */
export function merge(...sources: readonly WeightSource[]): WeightSource {
  return {
    describe: sources.map((source) => source.describe).join(", "),
    get(name) {
      for (const source of sources) {
        const tensor = source.get(name);
        if (tensor) return tensor;
      }
      return undefined;
    },
    *names() {
      const seen = new Set<string>();
      for (const source of sources) {
        for (const name of source.names()) {
          if (!seen.has(name)) yield name;
          seen.add(name);
        }
      }
    },
  };
}

/**
 * The shape of the tensor `name`.
 *
 * @param neededBy what cannot be built without the tensor, for the error message ("the VAE")
 * @throws InputError `tensor-missing`
 */
export function shapeOf(source: WeightSource, name: string, neededBy: string): Shape {
  const stored = source.get(name);
  if (stored) return stored.shape;
  throw new InputError(
    "tensor-missing",
    `${source.describe}: has no tensor ${name}, which ${neededBy} needs. Is the file complete, and of a supported model?`,
    { path: source.describe, tensor: name },
  );
}

/**
 * The extent of `axis` of the tensor `name`.
 *
 * @param neededBy what cannot be built without the tensor, for the error message ("the VAE")
 * @throws InputError `tensor-missing`, or `tensor-mismatch` when the tensor has too few axes
 */
export function extentOf(source: WeightSource, name: string, axis: number, neededBy: string): number {
  const shape = shapeOf(source, name, neededBy);
  const extent = shape[axis];
  if (extent !== undefined) return extent;
  throw new InputError(
    "tensor-mismatch",
    `${source.describe}: tensor ${name} has shape ${showShape(shape)}, but ${neededBy} needs at least ${axis + 1} axes. ` +
      "Is it a supported model?",
    { path: source.describe, tensor: name, found: shape, expected: axis + 1 },
  );
}

/** Reads the elements from the file, unless they are in memory already. */
export async function readTensor(stored: StoredTensor): Promise<HostTensor> {
  const { dtype, shape } = stored;
  if (stored.kind === "memory") return { dtype, shape, data: stored.data };
  const size = sizeOf(shape);
  if (stored.length !== size * BYTES_PER_ELEMENT[dtype]) {
    throw new RangeError(`readTensor: ${dtype}${showShape(shape)} does not have ${stored.length} bytes`);
  }
  const data = allocate(dtype, size);
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  await withFile(stored.path, (file) => readFully(file, bytes, stored.offset, stored.path));
  return { dtype, shape, data };
}
