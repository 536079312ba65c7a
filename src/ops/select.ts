/** Selects elements by their value. */
import { apply, type F64Array, type OpDef, type TensorType, type Value } from "../graph/value.js";
import { normalizeAxis, showShape, sizeOf, stridesOf } from "../tensor/shape.js";
import type { AxisAttrs } from "./indexing.js";

/**
 * The `count` largest elements along an axis in descending order, and their int64 indices. Of equal ones the first
 * wins.
 */
export const topKOp: OpDef<AxisAttrs & { readonly count: number }> = {
  name: "topK",
  infer: ([x], { axis, count }) => {
    const { shape, dtype } = x as TensorType;
    if (!(count >= 1 && count <= (shape[axis] as number))) {
      throw new TypeError(`topK: cannot take the ${count} largest elements along axis ${axis} of ${showShape(shape)}`);
    }
    const selected = shape.map((extent, at) => (at === axis ? count : extent));
    return [
      { shape: selected, dtype },
      { shape: selected, dtype: "int64" },
    ];
  },
  emit: (w, [x], { attrs: { axis, count } }) => w.node("TopK", [x as string, w.ints([count])], { axis }, 2),
  evaluate: ([x], { attrs: { axis, count }, outputs }) => {
    const { shape, data } = x as F64Array;
    const out = (outputs[0] as Value).shape;
    const stride = stridesOf(shape)[axis] as number;
    const extent = shape[axis] as number;
    const [values, indices] = [new Float64Array(sizeOf(out)), new Float64Array(sizeOf(out))];
    for (let line = 0; line < data.length / extent; line++) {
      const [outer, inner] = [Math.floor(line / stride), line % stride];
      const at = (index: number) => data[(outer * extent + index) * stride + inner] as number;
      const order = Array.from({ length: extent }, (_, index) => index).sort((a, b) => at(b) - at(a) || a - b);
      for (let rank = 0; rank < count; rank++) {
        const to = (outer * count + rank) * stride + inner;
        indices[to] = order[rank] as number;
        values[to] = at(order[rank] as number);
      }
    }
    return [
      { shape: out, data: values },
      { shape: out, data: indices },
    ];
  },
};

/** The `count` largest elements along an axis in descending order, and their int64 indices. */
export function topK(x: Value, count: number, axis = -1): { values: Value; indices: Value } {
  const [values, indices] = apply(topKOp, [x], { count, axis: normalizeAxis(axis, x.shape.length, "topK") });
  return { values: values as Value, indices: indices as Value };
}
