/** Reductions, and operators that pick elements along an axis: https://onnx.ai/onnx/operators/ */
import type { Value } from "../../../graph/value.js";
import {
  abs,
  add,
  allAxes,
  cast,
  constant,
  gatherElements,
  less,
  log,
  max,
  mean,
  mul,
  reshape,
  sqrt,
  sum,
  topK,
} from "../../../ops/index.js";
import { isFloating } from "../../../tensor/dtype.js";
import { normalizeAxis, showShape } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import { logSumExp } from "./norm.js";
import type { Operator, Operators } from "./operator.js";

type Reduction = (x: Value, axes: readonly number[], options: { keepDims: boolean }) => Value;

const reduction =
  (reduce: Reduction): Operator =>
  (node) => {
    const given = node.input(0);
    // The reductions of our graph take floating point. Booleans and integers are small enough to be exact in float32.
    const x = isFloating(given.dtype) ? given : cast(given, "float32");
    const axes = node.intsOrInput("axes", 1) ?? [];
    const keepDims = node.int("keepdims") !== 0;
    if (axes.length === 0 && node.int("noop_with_empty_axes") === 1) return given;
    const all =
      axes.length === 0 ? allAxes(x.shape) : axes.map((axis) => normalizeAxis(axis, x.shape.length, node.operator));
    return cast(reduce(x, [...new Set(all)], { keepDims }), given.dtype);
  };

const negate = (x: Value) => mul(x, -1);

/** ReduceProd of a constant list: it occurs in shape arithmetic alone. */
function reduceProd(node: OnnxNode): Value {
  const { shape, dtype } = node.input(0);
  const total = (node.numbers(0, "operand") ?? []).reduce((a, b) => a * b, 1);
  if (shape.length !== 1) node.fail(`is only supported for a list, but its operand has the shape ${showShape(shape)}`);
  return constant([total], node.int("keepdims") === 0 ? [] : [1], dtype);
}

function argMax(node: OnnxNode, transform: (x: Value) => Value): Value {
  const x = node.input(0);
  const axis = node.axis("axis", 0, x.shape.length);
  if (node.int("select_last_index") === 1) node.fail("select_last_index is not supported");
  const { indices } = topK(transform(x), 1, axis);
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
  const positions = add(indices, mul(cast(less(indices, 0), "int64"), x.shape[axis] as number));
  return gatherElements(x, positions, axis);
}

export const reductions: Operators = {
  ReduceSum: reduction(sum),
  ReduceMean: reduction(mean),
  ReduceMax: reduction(max),
  ReduceMin: reduction((x, axes, options) => negate(max(negate(x), axes, options))),
  ReduceProd: reduceProd,
  ReduceL1: reduction((x, axes, options) => sum(abs(x), axes, options)),
  ReduceL2: reduction((x, axes, options) => sqrt(sum(mul(x, x), axes, options))),
  ReduceSumSquare: reduction((x, axes, options) => sum(mul(x, x), axes, options)),
  ReduceLogSum: reduction((x, axes, options) => log(sum(x, axes, options))),
  ReduceLogSumExp: reduction((x, axes, { keepDims }) => logSumExp(x, axes, keepDims)),
  ArgMax: (node) => argMax(node, (x) => x),
  ArgMin: (node) => argMax(node, negate),
  TopK: topKOf,
  GatherElements: gatherElementsOf,
};
