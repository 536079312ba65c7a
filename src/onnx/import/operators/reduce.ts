/** Reductions, and operators that pick elements along an axis: https://onnx.ai/onnx/operators/ */
import { showType, type Value } from "../../../graph/value.js";
import {
  abs,
  allAxes,
  cast,
  concat,
  flip,
  gatherElements,
  greater,
  log,
  max,
  mean,
  mul,
  reshape,
  slice,
  sub,
  sum,
  topK,
  transpose,
} from "../../../ops/index.js";
import { type DType, isFloating } from "../../../tensor/dtype.js";
import { normalizeAxis, sizeOf } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import { fromStart } from "./indexing.js";
import { logSumExp, sqrtOrZero } from "./norm.js";
import type { Operator, Operators } from "./operator.js";
import { repeated } from "./repeated.js";

type Reduction = (x: Value, axes: readonly number[], options: { keepDims: boolean }) => Value;

/** Reduces floating point, and other types as float32. The result has the type `as`, or else that of the operand. */
const reduction =
  (reduce: Reduction, as?: DType): ((node: OnnxNode) => Value) =>
  (node) => {
    const given = node.input(0);
    // The reductions of our graph take floating point. Booleans and integers are small enough to be exact in float32.
    const x = isFloating(given.dtype) ? given : cast(given, "float32");
    const axes = node.intsOrInput("axes", 1) ?? [];
    const keepDims = node.int("keepdims") !== 0;
    const keepsAll = node.int("noop_with_empty_axes") === 1;
    if (axes.length === 0 && keepsAll) return cast(given, as ?? given.dtype);
    const all =
      axes.length === 0 ? allAxes(x.shape) : axes.map((axis) => normalizeAxis(axis, x.shape.length, node.operator));
    return cast(reduce(x, [...new Set(all)], { keepDims }), as ?? given.dtype);
  };

/** The largest or smallest element. Of no element, it is the identity of the operation, which booleans have and integers lack. */
const extremum =
  (reduce: Reduction): Operator =>
  (node) => {
    const given = node.input(0);
    if (given.dtype !== "bool") {
      const isEmpty = !isFloating(given.dtype) && sizeOf(given.shape) === 0;
      return isEmpty ? node.fail(`reduces ${showType(given)}, which has no elements`) : reduction(reduce)(node);
    }
    // Without elements, max is -∞ and min is ∞, which are false and true.
    return cast(greater(reduction(reduce, "float32")(node), 0.5), "bool");
  };

const negate = (x: Value) => mul(x, -1);

/** The product over some axes. Each pass multiplies one half by the other, so the gradient is right where elements are 0. */
function product(x: Value, axes: readonly number[], { keepDims }: { keepDims: boolean }): Value {
  const others = x.shape.map((_, axis) => axis).filter((axis) => !axes.includes(axis));
  const extents = others.map((axis) => x.shape[axis] as number);
  const count = sizeOf(axes.map((axis) => x.shape[axis] as number));
  let rows = reshape(transpose(x, [...others, ...axes]), [...extents, count]);
  if (count === 0) rows = repeated([...extents, 1], 1);
  const last = others.length;
  for (let n = count; n > 1; n = Math.ceil(n / 2)) {
    const half = Math.floor(n / 2);
    const pairs = mul(slice(rows, last, [0, half]), slice(rows, last, [half, 2 * half]));
    rows = n % 2 === 1 ? concat([pairs, slice(rows, last, [n - 1, n])], last) : pairs;
  }
  const kept = x.shape.map((extent, axis) => (axes.includes(axis) ? 1 : extent));
  return reshape(rows, keepDims ? kept : extents);
}

function argMax(node: OnnxNode, transform: (x: Value) => Value): Value {
  const x = node.input(0);
  const axis = node.axis("axis", 0, x.shape.length);
  // The first index of the flipped axis is the last one of x.
  const isLast = node.int("select_last_index") === 1;
  const top = topK(transform(isLast ? flip(x, [axis]) : x), 1, axis).indices;
  const indices = isLast ? sub((x.shape[axis] as number) - 1, top) : top;
  return node.int("keepdims") === 0
    ? reshape(
        indices,
        x.shape.filter((_, i) => i !== axis),
      )
    : indices;
}

function topKOf(node: OnnxNode): Value[] {
  const x = node.input(0);
  const count = node.integer(1, "k") ?? node.int("k") ?? node.fail("k is missing");
  const axis = node.axis("axis", -1, x.shape.length);
  // The order of unsorted results is open, so a sorted one is right.
  node.ignore("sorted");
  if (node.int("largest") !== 0) {
    const { values, indices } = topK(x, count, axis);
    return [values, indices];
  }
  const { values, indices } = topK(negate(x), count, axis);
  return [negate(values), indices];
}

function gatherElementsOf(node: OnnxNode): Value {
  const [x, indices] = [node.input(0), cast(node.input(1), "int64")];
  const axis = node.axis("axis", 0, x.shape.length);
  return gatherElements(x, fromStart(indices, x.shape[axis] as number), axis);
}

export const reductions: Operators = {
  ReduceSum: reduction(sum),
  ReduceMean: reduction(mean),
  ReduceMax: extremum(max),
  ReduceMin: extremum((x, axes, options) => negate(max(negate(x), axes, options))),
  ReduceProd: reduction(product),
  ReduceL1: reduction((x, axes, options) => sum(abs(x), axes, options)),
  ReduceL2: reduction((x, axes, options) => sqrtOrZero(sum(mul(x, x), axes, options))),
  ReduceSumSquare: reduction((x, axes, options) => sum(mul(x, x), axes, options)),
  ReduceLogSum: reduction((x, axes, options) => log(sum(x, axes, options))),
  ReduceLogSumExp: reduction((x, axes, { keepDims }) => logSumExp(x, axes, keepDims)),
  ArgMax: (node) => argMax(node, (x) => x),
  ArgMin: (node) => argMax(node, negate),
  TopK: topKOf,
  GatherElements: gatherElementsOf,
};
