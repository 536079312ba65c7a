import { apply, apply1, type F64Array, type OpDef, showType, type TensorType, type Value } from "../graph/value.js";
import { normalizeAxis, type Shape, showShape, sizeOf, stridesOf } from "../tensor/shape.js";
import { image, type Padding, reach } from "./conv.js";

/** Ops that pick elements by what they hold or by indices; the gradient goes back to where an element came from. */

export interface AxisAttrs {
  readonly axis: number;
}

/** For each index of `shape`, the offset in `from` when the index along `axis` is replaced by the one given. */
function offsetsAlong(indices: F64Array, from: Shape, axis: number): Float64Array {
  const [own, strides] = [stridesOf(indices.shape), stridesOf(from)];
  return indices.data.map((index, i) =>
    strides.reduce((offset, stride, at) => {
      const position = Math.floor(i / (own[at] as number)) % (indices.shape[at] as number);
      return offset + stride * (at === axis ? index : position);
    }, 0),
  );
}

function checkIndices(who: string, indices: TensorType, x: TensorType, axis: number): void {
  const fits =
    indices.dtype === "int64" &&
    indices.shape.length === x.shape.length &&
    indices.shape.every((extent, at) => at === axis || extent <= (x.shape[at] as number));
  if (!fits) throw new TypeError(`${who}: ${showType(indices)} does not index ${showType(x)} along axis ${axis}`);
}

/** y[i, j] = x[indices[i, j], j] for axis 0: torch.gather. */
export const gatherElementsOp: OpDef<AxisAttrs> = {
  name: "gatherElements",
  infer: ([x, indices], { axis }) => {
    checkIndices("gatherElements", indices as TensorType, x as TensorType, axis);
    return [{ shape: (indices as TensorType).shape, dtype: (x as TensorType).dtype }];
  },
  emit: (w, inputs, { attrs: { axis } }) => w.node("GatherElements", inputs, { axis }),
  evaluate: ([x, indices], { attrs }) => {
    const { shape, data } = x as F64Array;
    const offsets = offsetsAlong(indices as F64Array, shape, attrs.axis);
    return [{ shape: (indices as F64Array).shape, data: offsets.map((at) => data[at] as number) }];
  },
};

/** Adds updates into zeros of `shape` where gatherElements would have read them. */
export const scatterElementsOp: OpDef<AxisAttrs & { readonly shape: Shape }> = {
  name: "scatterElements",
  autocast: "float32",
  infer: ([indices, updates], { shape, axis }) => {
    const { dtype } = updates as TensorType;
    checkIndices("scatterElements", indices as TensorType, { shape, dtype }, axis);
    if (showShape((indices as TensorType).shape) !== showShape((updates as TensorType).shape)) {
      throw new TypeError(
        `scatterElements: ${showType(indices as TensorType)} does not place ${showType(updates as TensorType)}`,
      );
    }
    return [{ shape, dtype }];
  },
  emit: (w, [indices, updates], { attrs: { axis, shape }, outputs }) => {
    const zeros = w.node("Expand", [w.tensor([0], [], (outputs[0] as Value).dtype), w.ints(shape)])[0] as string;
    return w.node("ScatterElements", [zeros, indices as string, updates as string], { axis, reduction: "add" });
  },
  evaluate: ([indices, updates], { attrs: { axis, shape } }) => {
    const data = new Float64Array(sizeOf(shape));
    const offsets = offsetsAlong(indices as F64Array, shape, axis);
    (updates as F64Array).data.forEach((value, i) => {
      const at = offsets[i] as number;
      data[at] = (data[at] as number) + value;
    });
    return [{ shape, data }];
  },
};

/** The `count` largest elements along an axis, the largest first, and their int64 indices; of equal ones the first. */
export const topKOp: OpDef<AxisAttrs & { readonly count: number }> = {
  name: "topK",
  infer: ([x], { axis, count }) => {
    const { shape, dtype } = x as TensorType;
    if (!(count >= 1 && count <= (shape[axis] as number))) {
      throw new TypeError(`topK: axis ${axis} of ${showShape(shape)} has no ${count} largest elements`);
    }
    const kept = shape.map((extent, at) => (at === axis ? count : extent));
    return [
      { shape: kept, dtype },
      { shape: kept, dtype: "int64" },
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
 * The largest element of each window of x [b, c, h, w] → [b, c, h', w'], and its int64 place in x as one row of numbers, which
 * the gradient needs. Of equal elements the first takes the gradient, as in torch.
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
        `maxPool: ${h}x${w} with padding ${showShape(padding)} is smaller than the ${kernel.join("x")} window`,
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
    const places = new Float64Array(values.length);
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
          places[i] = plane + row * w + column;
        }
      }
    }
    return [
      { shape, data: values },
      { shape, data: places },
    ];
  },
};

export function gatherElements(x: Value, indices: Value, axis: number): Value {
  return apply1(gatherElementsOp, [x, indices], { axis: normalizeAxis(axis, x.shape.length, "gatherElements") });
}

/** updates added into zeros of `shape`; gatherElements's transpose. */
export function scatterElements(indices: Value, updates: Value, shape: Shape, axis: number): Value {
  return apply1(scatterElementsOp, [indices, updates], {
    shape,
    axis: normalizeAxis(axis, shape.length, "scatterElements"),
  });
}

/** The `count` largest along an axis, and where they are. */
export function topK(x: Value, count: number, axis = -1): { values: Value; indices: Value } {
  const [values, indices] = apply(topKOp, [x], { count, axis: normalizeAxis(axis, x.shape.length, "topK") });
  return { values: values as Value, indices: indices as Value };
}

interface MaxPoolOptions {
  readonly stride?: number | readonly [number, number];
  readonly padding?: number | Padding;
  readonly dilation?: number;
}

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
