import { apply1, type F64Array, type OpDef, type TensorType, type Value } from "../graph/value.js";
import { normalizeAxis, type Shape, sizeOf } from "../tensor/shape.js";
import { broadcastOffsets } from "./elementwise.js";

export interface ReduceAttrs {
  readonly axes: readonly number[];
  readonly keepDims: boolean;
}

function reduction(
  name: string,
  onnx: string,
  start: number,
  accumulate: (total: number, x: number) => number,
  finish: (total: number, count: number) => number,
): OpDef<ReduceAttrs> {
  return {
    name,
    infer: ([x], { axes, keepDims }) => {
      const { shape, dtype } = x as TensorType;
      const kept = shape.map((extent, axis) => (axes.includes(axis) ? 1 : extent));
      return [{ shape: keepDims ? kept : kept.filter((_, axis) => !axes.includes(axis)), dtype }];
    },
    emit: (w, [x], { attrs }) => w.node(onnx, [x as string, w.ints(attrs.axes)], { keepdims: attrs.keepDims ? 1 : 0 }),
    evaluate: ([x], { attrs, outputs }) => {
      const { shape, data } = x as F64Array;
      const kept = shape.map((extent, axis) => (attrs.axes.includes(axis) ? 1 : extent));
      const out = new Float64Array(sizeOf(kept)).fill(start);
      const target = broadcastOffsets(kept, shape);
      for (let i = 0; i < data.length; i++) {
        const at = target[i] as number;
        out[at] = accumulate(out[at] as number, data[i] as number);
      }
      return [
        { shape: (outputs[0] as Value).shape, data: out.map((total) => finish(total, data.length / out.length)) },
      ];
    },
  };
}

export const sumOp: OpDef<ReduceAttrs> = {
  ...reduction(
    "sum",
    "ReduceSum",
    0,
    (total, x) => total + x,
    (total) => total,
  ),
  autocast: "float32",
};
export const meanOp: OpDef<ReduceAttrs> = {
  ...reduction(
    "mean",
    "ReduceMean",
    0,
    (total, x) => total + x,
    (total, count) => total / count,
  ),
  autocast: "float32",
};
export const maxOp = reduction("max", "ReduceMax", Number.NEGATIVE_INFINITY, Math.max, (total) => total);

interface ReduceOptions {
  readonly keepDims?: boolean;
}

function reduce(op: OpDef<ReduceAttrs>, x: Value, axes: number | readonly number[], keepDims: boolean): Value {
  const list = typeof axes === "number" ? [axes] : axes;
  const normalized = list.map((axis) => normalizeAxis(axis, x.shape.length, op.name)).sort((a, b) => a - b);
  return normalized.length === 0 ? x : apply1(op, [x], { axes: normalized, keepDims });
}

export const sum = (x: Value, axes: number | readonly number[], { keepDims = false }: ReduceOptions = {}): Value =>
  reduce(sumOp, x, axes, keepDims);
export const mean = (x: Value, axes: number | readonly number[], { keepDims = false }: ReduceOptions = {}): Value =>
  reduce(meanOp, x, axes, keepDims);
export const max = (x: Value, axes: number | readonly number[], { keepDims = false }: ReduceOptions = {}): Value =>
  reduce(maxOp, x, axes, keepDims);

/** Every axis of a tensor of this shape. */
export function allAxes(shape: Shape): number[] {
  return shape.map((_, axis) => axis);
}
