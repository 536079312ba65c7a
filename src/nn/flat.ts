/**
 * Trainable tensors in one flat float32 vector. The optimizer, the all-reduce, the gradient norm and the checkpoint are
 * then one loop over one array, and a graph reads all tensors from one input.
 */
import type { Value } from "../graph/value.js";
import { concat, reshape, slice, zeros } from "../ops/index.js";
import type { HostTensor } from "../tensor/host.js";
import { type Shape, sizeOf } from "../tensor/shape.js";

/** A tensor of the vector. */
export interface FlatEntry {
  readonly name: string;
  readonly shape: Shape;
  /** Index of the first element in the vector. */
  readonly offset: number;
}

export interface FlatLayout<E extends FlatEntry = FlatEntry> {
  /** The tensors in the order of the vector, without gaps. */
  readonly entries: readonly E[];
  /** Number of elements of the vector. */
  readonly size: number;
}

/** Lays the tensors out one after another. */
export function flatLayout<T extends { readonly name: string; readonly shape: Shape }>(
  tensors: Iterable<T>,
): FlatLayout<T & FlatEntry> {
  const entries: (T & FlatEntry)[] = [];
  let size = 0;
  for (const tensor of tensors) {
    entries.push({ ...tensor, offset: size });
    size += sizeOf(tensor.shape);
  }
  return { entries, size };
}

/**
 * flat [size] → one value for each entry, in its shape. To differentiate with respect to the vector, differentiate with
 * respect to these values and call `joinFlat` with the gradients.
 */
export function splitFlat(layout: FlatLayout, flat: Value): Value[] {
  return layout.entries.map(({ shape, offset }) => reshape(slice(flat, 0, [offset, offset + sizeOf(shape)]), shape));
}

/** One value for each entry → [size]. An undefined part, such as a missing gradient, becomes zeros. */
export function joinFlat(layout: FlatLayout, parts: readonly (Value | undefined)[]): Value {
  if (parts.length !== layout.entries.length) {
    throw new TypeError(`joinFlat: got ${parts.length} parts for ${layout.entries.length} entries`);
  }
  return concat(
    layout.entries.map(({ shape }, i) => {
      const part = parts[i];
      return part ? reshape(part, [sizeOf(shape)]) : zeros([sizeOf(shape)]);
    }),
    0,
  );
}

/** The tensors by name, as views of the vector. */
export function flatTensors(layout: FlatLayout, flat: Float32Array): Map<string, HostTensor> {
  if (flat.length !== layout.size) {
    throw new RangeError(`flatTensors: the vector has ${flat.length} elements, but the layout has ${layout.size}`);
  }
  return new Map(
    layout.entries.map(({ name, shape, offset }) => [
      name,
      { dtype: "float32", shape, data: flat.subarray(offset, offset + sizeOf(shape)) },
    ]),
  );
}
