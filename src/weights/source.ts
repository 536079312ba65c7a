import { readFully, withFile } from "../io/files.js";
import { BYTES_PER_ELEMENT, type DType } from "../tensor/dtype.js";
import { allocate, type HostData, type HostTensor } from "../tensor/host.js";
import { type Shape, showShape, sizeOf } from "../tensor/shape.js";

/**
 * A tensor and where its elements lie: still in a file, so that the runtime can map it instead of copying it, or in
 * memory. `path` is absolute with links resolved, because ONNX Runtime refuses weights behind symbolic links.
 */
export type StoredTensor = { readonly dtype: DType; readonly shape: Shape } & (
  | { readonly kind: "file"; readonly path: string; readonly offset: number; readonly length: number }
  | { readonly kind: "memory"; readonly data: HostData }
);

/** Named tensors, wherever they come from. */
export interface WeightSource {
  get(name: string): StoredTensor | undefined;
  names(): Iterable<string>;
  /** What messages call this source, such as the file. */
  readonly describe: string;
}

/** One file of tensors. */
export interface WeightFile extends WeightSource {
  /** Absolute, links resolved. */
  readonly path: string;
  /** What a safetensors header says beside the tensors. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/** Far above any real tensor; keeps the product of a hostile file's extents a finite number. */
export const HIGHEST_RANK = 16;

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

/** The same tensors, each called `prefix` + its name: `conv_in.weight` → `unet.conv_in.weight`. */
export function withPrefix(source: WeightSource, prefix: string): WeightSource {
  return {
    describe: source.describe,
    get: (name) => (name.startsWith(prefix) ? source.get(name.slice(prefix.length)) : undefined),
    *names() {
      for (const name of source.names()) yield prefix + name;
    },
  };
}

/** All tensors of several sources. Where two hold one name, the first wins. */
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

/** The elements, read from the file where they are not in memory yet. */
export async function readTensor(stored: StoredTensor): Promise<HostTensor> {
  const { dtype, shape } = stored;
  if (stored.kind === "memory") return { dtype, shape, data: stored.data };
  const size = sizeOf(shape);
  if (stored.length !== size * BYTES_PER_ELEMENT[dtype]) {
    throw new RangeError(`readTensor: ${dtype}${showShape(shape)} does not take ${stored.length} bytes`);
  }
  const data = allocate(dtype, size);
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  await withFile(stored.path, (file) => readFully(file, bytes, stored.offset, stored.path));
  return { dtype, shape, data };
}
