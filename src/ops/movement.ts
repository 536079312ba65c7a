/** Ops that move elements and compute nothing. */
import { apply1, type F64Array, type OpDef, showType, type TensorType, type Value } from "../graph/value.js";
import {
  broadcastShapes,
  normalizeAxis,
  type Shape,
  sameShape,
  showShape,
  sizeOf,
  stridesOf,
} from "../tensor/shape.js";
import { broadcastOffsets } from "./elementwise.js";

export const reshapeOp: OpDef<{ readonly shape: Shape }> = {
  name: "reshape",
  infer: ([x], { shape }) => {
    const type = x as TensorType;
    if (sizeOf(type.shape) !== sizeOf(shape)) {
      throw new TypeError(
        `reshape: ${showType(type)} has ${sizeOf(type.shape)} elements, but ${showShape(shape)} has ${sizeOf(shape)}`,
      );
    }
    return [{ shape, dtype: type.dtype }];
  },
  // An extent of 0 would otherwise stand for that of x.
  emit: (w, [x], { attrs: { shape } }) =>
    w.node("Reshape", [x as string, w.ints(shape)], shape.includes(0) ? { allowzero: 1 } : {}),
  evaluate: ([x], { attrs }) => [{ shape: attrs.shape, data: (x as F64Array).data }],
};

export const transposeOp: OpDef<{ readonly permutation: readonly number[] }> = {
  name: "transpose",
  infer: ([x], { permutation }) => {
    const { shape, dtype } = x as TensorType;
    if (
      !sameShape(
        [...permutation].sort((a, b) => a - b),
        shape.map((_, axis) => axis),
      )
    ) {
      throw new TypeError(
        `transpose: ${showShape(permutation)} is not a permutation of the axes of ${showShape(shape)}`,
      );
    }
    return [{ shape: permutation.map((axis) => shape[axis] as number), dtype }];
  },
  emit: (w, [x], { attrs }) => w.node("Transpose", [x as string], { perm: attrs.permutation }),
  evaluate: ([x], { attrs, outputs }) => {
    const { shape, data } = x as F64Array;
    const strides = stridesOf(shape);
    const out = (outputs[0] as Value).shape;
    return [
      {
        shape: out,
        data: strided(
          data,
          out,
          attrs.permutation.map((axis) => strides[axis] as number),
          0,
        ),
      },
    ];
  },
};

/** Elements of a strided view: for each index of `shape`, `data` at offset + Σ index · step. */
function strided(data: Float64Array, shape: Shape, steps: readonly number[], offset: number): Float64Array {
  const out = new Float64Array(sizeOf(shape));
  const strides = stridesOf(shape);
  for (let i = 0; i < out.length; i++) {
    let at = offset;
    for (let axis = 0; axis < shape.length; axis++) {
      at += (Math.floor(i / (strides[axis] as number)) % (shape[axis] as number)) * (steps[axis] as number);
    }
    out[i] = data[at] as number;
  }
  return out;
}

export const broadcastToOp: OpDef<{ readonly shape: Shape }> = {
  name: "broadcastTo",
  infer: ([x], { shape }) => {
    const type = x as TensorType;
    const result = broadcastShapes(type.shape, shape);
    if (!result || !sameShape(result, shape))
      throw new TypeError(`broadcastTo: ${showType(type)} does not broadcast to ${showShape(shape)}`);
    return [{ shape, dtype: type.dtype }];
  },
  emit: (w, [x], { attrs }) => w.node("Expand", [x as string, w.ints(attrs.shape)]),
  evaluate: ([x], { attrs: { shape } }) => [
    {
      shape,
      data: Float64Array.from(
        broadcastOffsets((x as F64Array).shape, shape),
        (at) => (x as F64Array).data[at] as number,
      ),
    },
  ],
};

export interface SliceAttrs {
  readonly axis: number;
  readonly start: number;
  readonly stop: number;
  readonly step: number;
}

export const sliceOp: OpDef<SliceAttrs> = {
  name: "slice",
  infer: ([x], { axis, start, stop, step }) => {
    const { shape, dtype } = x as TensorType;
    const extent = shape[axis] as number;
    if (!(0 <= start && start <= stop && stop <= extent && step >= 1)) {
      throw new TypeError(
        `slice: start ${start}, stop ${stop}, step ${step} do not fit axis ${axis} of ${showShape(shape)}`,
      );
    }
    return [{ shape: shape.map((size, i) => (i === axis ? Math.ceil((stop - start) / step) : size)), dtype }];
  },
  emit: (w, [x], { attrs: { axis, start, stop, step } }) =>
    w.node("Slice", [x as string, w.ints([start]), w.ints([stop]), w.ints([axis]), w.ints([step])]),
  evaluate: ([x], { attrs: { axis, start, step }, outputs }) => {
    const { shape, data } = x as F64Array;
    const strides = stridesOf(shape);
    const steps = strides.map((stride, i) => (i === axis ? stride * step : stride));
    const out = (outputs[0] as Value).shape;
    return [{ shape: out, data: strided(data, out, steps, start * (strides[axis] as number)) }];
  },
};

export const flipOp: OpDef<{ readonly axes: readonly number[] }> = {
  name: "flip",
  infer: ([x]) => [x as TensorType],
  emit: (w, [x], { attrs: { axes } }) => {
    const all = (value: number) => w.ints(axes.map(() => value));
    return w.node("Slice", [x as string, all(-1), all(-(2 ** 31)), w.ints(axes), all(-1)]);
  },
  evaluate: ([x], { attrs: { axes } }) => {
    const { shape, data } = x as F64Array;
    const strides = stridesOf(shape);
    const steps = strides.map((stride, axis) => (axes.includes(axis) ? -stride : stride));
    const first = axes.reduce((offset, axis) => offset + (strides[axis] as number) * ((shape[axis] as number) - 1), 0);
    return [{ shape, data: strided(data, shape, steps, first) }];
  },
};

export interface PadAttrs {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

/** Adds zeros before and after each axis. */
export const padOp: OpDef<PadAttrs> = {
  name: "pad",
  infer: ([x], { before, after }) => {
    const { shape, dtype } = x as TensorType;
    if (before.length !== shape.length || after.length !== shape.length || [...before, ...after].some((n) => n < 0)) {
      throw new TypeError(
        `pad: ${showShape(before)} before and ${showShape(after)} after do not fit ${showShape(shape)}`,
      );
    }
    return [{ shape: shape.map((size, i) => size + (before[i] as number) + (after[i] as number)), dtype }];
  },
  emit: (w, [x], { attrs: { before, after } }) => w.node("Pad", [x as string, w.ints([...before, ...after])]),
  evaluate: ([x], { attrs: { before }, outputs }) => {
    const { shape, data } = x as F64Array;
    const out = (outputs[0] as Value).shape;
    const result = new Float64Array(sizeOf(out));
    const [from, to] = [stridesOf(shape), stridesOf(out)];
    for (let i = 0; i < data.length; i++) {
      let at = 0;
      for (let axis = 0; axis < shape.length; axis++) {
        const index = Math.floor(i / (from[axis] as number)) % (shape[axis] as number);
        at += (index + (before[axis] as number)) * (to[axis] as number);
      }
      result[at] = data[i] as number;
    }
    return [{ shape: out, data: result }];
  },
};

export const concatOp: OpDef<{ readonly axis: number }> = {
  name: "concat",
  infer: (inputs, { axis }) => {
    const first = inputs[0] as TensorType;
    for (const other of inputs) {
      const fits =
        other.shape.length === first.shape.length &&
        other.shape.every((size, i) => i === axis || size === first.shape[i]);
      if (!fits || other.dtype !== first.dtype) {
        throw new TypeError(`concat: ${showType(first)} and ${showType(other)} do not fit together along axis ${axis}`);
      }
    }
    const total = inputs.reduce((length, { shape }) => length + (shape[axis] as number), 0);
    return [{ shape: first.shape.map((size, i) => (i === axis ? total : size)), dtype: first.dtype }];
  },
  emit: (w, inputs, { attrs }) => w.node("Concat", inputs, { axis: attrs.axis }),
  evaluate: (inputs, { attrs: { axis }, outputs }) => {
    const shape = (outputs[0] as Value).shape;
    const data = new Float64Array(sizeOf(shape));
    const rows = sizeOf(shape.slice(0, axis));
    let at = 0;
    for (let row = 0; row < rows; row++) {
      for (const { data: part } of inputs) {
        const length = part.length / rows;
        data.set(part.subarray(row * length, (row + 1) * length), at);
        at += length;
      }
    }
    return [{ shape, data }];
  },
};

/** Reshapes without moving elements. One extent may be -1; it is then computed from the others. */
export function reshape(x: Value, shape: Shape): Value {
  const known = shape.reduce((product, extent) => (extent === -1 ? product : product * extent), 1);
  const full = shape.map((extent) => (extent === -1 ? sizeOf(x.shape) / known : extent));
  return sameShape(full, x.shape) ? x : apply1(reshapeOp, [x], { shape: full });
}

/** Permutes axes: axis i of the result is axis `permutation[i]` of x. */
export function transpose(x: Value, permutation: readonly number[]): Value {
  return apply1(transposeOp, [x], { permutation });
}

/** Repeats x to `shape` by NumPy's broadcasting rules. */
export function broadcastTo(x: Value, shape: Shape): Value {
  return sameShape(x.shape, shape) ? x : apply1(broadcastToOp, [x], { shape });
}

/** x[start:stop:step] along one axis. */
export function slice(
  x: Value,
  axis: number,
  [start, stop]: readonly [start: number, stop: number],
  { step = 1 }: { readonly step?: number } = {},
): Value {
  const at = normalizeAxis(axis, x.shape.length, "slice");
  if (start === 0 && stop === x.shape[at] && step === 1) return x;
  return apply1(sliceOp, [x], { axis: at, start, stop, step });
}

/** Reverses the order of the elements along the axes. */
export function flip(x: Value, axes: readonly number[]): Value {
  return apply1(flipOp, [x], { axes: axes.map((axis) => normalizeAxis(axis, x.shape.length, "flip")) });
}

/** Adds zeros around x. `padding` has one [before, after] for each axis. */
export function pad(x: Value, padding: readonly (readonly [number, number])[]): Value {
  if (padding.every(([before, after]) => before === 0 && after === 0)) return x;
  return apply1(padOp, [x], { before: padding.map(([before]) => before), after: padding.map(([, after]) => after) });
}

/** Joins values along an axis. They must have the same extents along the other axes. */
export function concat(values: readonly Value[], axis: number): Value {
  const first = values[0];
  if (!first) throw new TypeError("concat: needs at least one value");
  if (values.length === 1) return first;
  return apply1(concatOp, values, { axis: normalizeAxis(axis, first.shape.length, "concat") });
}

/** Repeats x [b, ...] along its batch axis to [n, ...], where n is the batch size of `other` and a multiple of b. */
export function repeatBatch(x: Value, other: Value): Value {
  const [part, whole] = [x.shape[0] as number, other.shape[0] as number];
  if (whole % part !== 0) throw new TypeError(`repeatBatch: batch size ${whole} is not a multiple of ${part}`);
  return concat(new Array<Value>(whole / part).fill(x), 0);
}
