import type { Value } from "../graph/value.js";
import { concat, reshape, slice, zeros } from "../ops/index.js";
import type { HostTensor } from "../tensor/host.js";
import { type Shape, sizeOf } from "../tensor/shape.js";

/**
 * Many learned tensors as one float32 vector: an optimizer, an all-reduce, a norm or a checkpoint then is one loop over
 * one array, and a graph takes them through one input.
 */
export interface FlatEntry {
  readonly name: string;
  readonly shape: Shape;
  /** Place of the first element in the vector. */
  readonly offset: number;
}

export interface FlatLayout<E extends FlatEntry = FlatEntry> {
  /** In the vector's order, without gaps. */
  readonly entries: readonly E[];
  /** Elements in all. */
  readonly size: number;
}

/** Places the entries one after another. */
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

/** flat [size] → one Value per entry. Differentiate with respect to these, then `joinFlat` the gradients. */
export function splitFlat(layout: FlatLayout, flat: Value): Value[] {
  return layout.entries.map(({ shape, offset }) => reshape(slice(flat, 0, offset, offset + sizeOf(shape)), shape));
}

/** One Value per entry → [size]; where a part is undefined (a gradient with no path) there are zeros. */
export function joinFlat(layout: FlatLayout, parts: readonly (Value | undefined)[]): Value {
  if (parts.length !== layout.entries.length) {
    throw new TypeError(`joinFlat: ${parts.length} parts for ${layout.entries.length} entries`);
  }
  return concat(
    layout.entries.map(({ shape }, i) => {
      const part = parts[i];
      return part ? reshape(part, [sizeOf(shape)]) : zeros([sizeOf(shape)]);
    }),
    0,
  );
}

/** The vector's tensors by name. They share its memory. */
export function flatTensors(layout: FlatLayout, flat: Float32Array): Map<string, HostTensor> {
  if (flat.length !== layout.size) {
    throw new RangeError(`flatTensors: a vector of ${flat.length} elements for a layout of ${layout.size}`);
  }
  return new Map(
    layout.entries.map(({ name, shape, offset }) => [
      name,
      { dtype: "float32", shape, data: flat.subarray(offset, offset + sizeOf(shape)) },
    ]),
  );
}
