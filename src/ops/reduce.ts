/** Reductions over axes. */
import { apply1, type F64Array, type OpDef, type TensorType, type Value } from "../graph/value.js";
import { normalizeAxis, type Shape, sizeOf } from "../tensor/shape.js";
import { broadcastOffsets } from "./elementwise.js";

export interface ReduceAttrs {
  readonly axes: readonly number[];
  readonly keepDims: boolean;
}

interface Reduction {
  readonly name: string;
  /** The ONNX operator. */
  readonly onnx: string;
  readonly start: number;
  readonly accumulate: (total: number, x: number) => number;
  readonly finish?: (total: number, count: number) => number;
}

function reduction({ name, onnx, start, accumulate, finish = (total) => total }: Reduction): OpDef<ReduceAttrs> {
  return {
    name,
    infer: ([x], { axes, keepDims }) => {
      const { shape, dtype } = x as TensorType;
      const withDims = shape.map((extent, axis) => (axes.includes(axis) ? 1 : extent));
      return [{ shape: keepDims ? withDims : withDims.filter((_, axis) => !axes.includes(axis)), dtype }];
    },
    emit: (w, [x], { attrs }) => w.node(onnx, [x as string, w.ints(attrs.axes)], { keepdims: attrs.keepDims ? 1 : 0 }),
    evaluate: ([x], { attrs, outputs }) => {
      const { shape, data } = x as F64Array;
      const withDims = shape.map((extent, axis) => (attrs.axes.includes(axis) ? 1 : extent));
      const out = new Float64Array(sizeOf(withDims)).fill(start);
      const target = broadcastOffsets(withDims, shape);
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
  ...reduction({ name: "sum", onnx: "ReduceSum", start: 0, accumulate: (total, x) => total + x }),
  autocast: "float32",
};
export const meanOp: OpDef<ReduceAttrs> = {
  ...reduction({
    name: "mean",
    onnx: "ReduceMean",
    start: 0,
    accumulate: (total, x) => total + x,
    finish: (total, count) => total / count,
  }),
  autocast: "float32",
};
export const maxOp = reduction({
  name: "max",
  onnx: "ReduceMax",
  start: Number.NEGATIVE_INFINITY,
  accumulate: Math.max,
});

export interface ReduceOptions {
  /** Keep the reduced axes, with extent 1. */
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

/** All axes of a tensor of this shape, to reduce over. */
export function allAxes(shape: Shape): number[] {
  return shape.map((_, axis) => axis);
}
