/** Ops that select elements by their value. Their second output holds the indices that the gradient needs. */
import { apply, type F64Array, type OpDef, type TensorType, type Value } from "../graph/value.js";
import { normalizeAxis, showShape, sizeOf, stridesOf } from "../tensor/shape.js";
import { image, type Padding, reach } from "./conv.js";
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

export interface MaxPoolAttrs {
  readonly kernel: readonly [number, number];
  readonly stride: readonly [number, number];
  readonly padding: Padding;
  readonly dilation: number;
}

/**
 * The largest element of each window of x [b, c, h, w] → [b, c, h', w'], and its int64 offset in x. Of equal elements
 * the first gets the gradient, as in torch.
 */
export const maxPoolOp: OpDef<MaxPoolAttrs> = {
  name: "maxPool",
  infer: ([x], { kernel, stride, padding, dilation }) => {
    const [b, c, h, w] = image("maxPool", x as TensorType);
    const size = [h, w].map((extent, i) => {
      const padded = extent + (padding[i] as number) + (padding[i + 2] as number);
      return Math.floor((padded - reach(kernel[i] as number, dilation)) / (stride[i] as number)) + 1;
    });
    if (size.some((extent) => extent < 1)) {
      throw new TypeError(
        `maxPool: input ${h}x${w} with padding ${showShape(padding)} is smaller than the ${kernel.join("x")} window`,
      );
    }
    const shape = [b, c, ...size];
    return [
      { shape, dtype: (x as TensorType).dtype },
      { shape, dtype: "int64" },
    ];
  },
  emit: (w, [x], { attrs: { kernel, stride, padding, dilation } }) =>
    w.node(
      "MaxPool",
      [x as string],
      { kernel_shape: kernel, strides: stride, pads: padding, dilations: [dilation, dilation] },
      2,
    ),
  evaluate: ([x], { attrs: { kernel, stride, padding, dilation }, outputs }) => {
    const [, , h, w] = (x as F64Array).shape as [number, number, number, number];
    const shape = (outputs[0] as Value).shape as [number, number, number, number];
    const [, , height, width] = shape;
    const values = new Float64Array(sizeOf(shape)).fill(Number.NEGATIVE_INFINITY);
    const offsets = new Float64Array(values.length);
    for (let i = 0; i < values.length; i++) {
      const plane = Math.floor(i / (height * width)) * h * w;
      const top = (Math.floor(i / width) % height) * stride[0] - padding[0];
      const left = (i % width) * stride[1] - padding[1];
      for (let dy = 0; dy < kernel[0]; dy++) {
        for (let dx = 0; dx < kernel[1]; dx++) {
          const [row, column] = [top + dy * dilation, left + dx * dilation];
          if (row < 0 || row >= h || column < 0 || column >= w) continue;
          const value = (x as F64Array).data[plane + row * w + column] as number;
          if (value <= (values[i] as number)) continue;
          values[i] = value;
          offsets[i] = plane + row * w + column;
        }
      }
    }
    return [
      { shape, data: values },
      { shape, data: offsets },
    ];
  },
};

/** The `count` largest elements along an axis in descending order, and their int64 indices. */
export function topK(x: Value, count: number, axis = -1): { values: Value; indices: Value } {
  const [values, indices] = apply(topKOp, [x], { count, axis: normalizeAxis(axis, x.shape.length, "topK") });
  return { values: values as Value, indices: indices as Value };
}

interface MaxPoolOptions {
  readonly stride?: number | readonly [number, number];
  readonly padding?: number | Padding;
  readonly dilation?: number;
}

/** The largest element of each window of x [b, c, h, w] → [b, c, h', w'], as torch's max_pool2d. */
export function maxPool(
  x: Value,
  kernel: number | readonly [number, number],
  { stride = kernel, padding = 0, dilation = 1 }: MaxPoolOptions = {},
): Value {
  const pair = (value: number | readonly [number, number]) =>
    typeof value === "number" ? ([value, value] as const) : value;
  const around = typeof padding === "number" ? ([padding, padding, padding, padding] as const) : padding;
  return apply(maxPoolOp, [x], { kernel: pair(kernel), stride: pair(stride), padding: around, dilation })[0] as Value;
}
