/** What makes fewer numbers of many, and what picks some of them. */
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
import { normalizeAxis } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import { logSumExp } from "./norm.js";
import type { Operator, Operators } from "./operator.js";

type Reduction = (x: Value, axes: readonly number[], options: { keepDims: boolean }) => Value;

const reduction =
  (reduce: Reduction): Operator =>
  (node) => {
    const given = node.input(0);
    // Truths and whole numbers are few here; they are reduced as floating point.
    const x = isFloating(given.dtype) ? given : cast(given, "float32");
    const axes = node.intsOrInput("axes", 1) ?? [];
    const keepDims = node.int("keepdims") !== 0;
    if (axes.length === 0 && node.int("noop_with_empty_axes") === 1) return given;
    const all =
      axes.length === 0 ? allAxes(x.shape) : axes.map((axis) => normalizeAxis(axis, x.shape.length, node.operator));
    return cast(reduce(x, [...new Set(all)], { keepDims }), given.dtype);
  };

const negated = (x: Value) => mul(x, -1);

/** Shape arithmetic multiplies extents; nothing else here does. */
function multiplied(node: OnnxNode): Value {
  const { shape, dtype } = node.input(0);
  const total = (node.numbers(0, "operand") ?? []).reduce((a, b) => a * b, 1);
  if (shape.length !== 1) node.fail("multiplies more than a list of numbers");
  return constant([total], node.int("keepdims") === 0 ? [] : [1], dtype);
}

function best(node: OnnxNode, sign: (x: Value) => Value): Value {
  const x = node.input(0);
  const axis = node.axis("axis", 0, x.shape.length);
  if (node.int("select_last_index") === 1) node.fail("select_last_index is not supported");
  const { indices } = topK(sign(x), 1, axis);
  return node.int("keepdims") === 0
    ? reshape(
        indices,
        x.shape.filter((_, i) => i !== axis),
      )
    : indices;
}

function largest(node: OnnxNode): Value[] {
  const x = node.input(0);
  const count = node.integer(1, "k") ?? node.int("k") ?? node.fail("has no k");
  const axis = node.axis("axis", -1, x.shape.length);
  if (node.int("largest") !== 0) {
    const { values, indices } = topK(x, count, axis);
    return [values, indices];
  }
  const { values, indices } = topK(negated(x), count, axis);
  return [negated(values), indices];
}

function elements(node: OnnxNode): Value {
  const [x, indices] = [node.input(0), cast(node.input(1), "int64")];
  const axis = node.axis("axis", 0, x.shape.length);
  const counted = add(indices, mul(cast(less(indices, 0), "int64"), x.shape[axis] as number));
  return gatherElements(x, counted, axis);
}

export const reductions: Operators = {
  ReduceSum: reduction(sum),
  ReduceMean: reduction(mean),
  ReduceMax: reduction(max),
  ReduceMin: reduction((x, axes, options) => negated(max(negated(x), axes, options))),
  ReduceProd: multiplied,
  ReduceL1: reduction((x, axes, options) => sum(abs(x), axes, options)),
  ReduceL2: reduction((x, axes, options) => sqrt(sum(mul(x, x), axes, options))),
  ReduceSumSquare: reduction((x, axes, options) => sum(mul(x, x), axes, options)),
  ReduceLogSum: reduction((x, axes, options) => log(sum(x, axes, options))),
  ReduceLogSumExp: reduction((x, axes, { keepDims }) => logSumExp(x, axes, keepDims)),
  ArgMax: (node) => best(node, (x) => x),
  ArgMin: (node) => best(node, negated),
  TopK: largest,
  GatherElements: elements,
};
