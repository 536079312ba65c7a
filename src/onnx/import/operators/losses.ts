/** Losses of a classifier: https://onnx.ai/onnx/operators/onnx__SoftmaxCrossEntropyLoss.html */
import type { Value } from "../../../graph/value.js";
import {
  cast,
  constant,
  div,
  equal,
  gather,
  gatherElements,
  less,
  mul,
  neg,
  reshape,
  sub,
  sum,
  transpose,
  where,
} from "../../../ops/index.js";
import { showShape } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import { logSumExp } from "./norm.js";
import type { Operators } from "./operator.js";

/** Minus the log probability [b, classes, ...] of the label [b, ...], weighted by class. */
function negativeLogLikelihood(node: OnnxNode, logProbabilities: Value): Value {
  const labels = cast(node.input(1), "int64");
  const weights = node.optional(2);
  const ignored = node.int("ignore_index");
  const reduction = node.choice("reduction", ["mean", "sum", "none"], "mean");
  const { shape } = logProbabilities;
  if (shape.length < 2) node.fail(`has scores ${showShape(shape)} without classes`);
  if (showShape([shape[0] as number, ...shape.slice(2)]) !== showShape(labels.shape)) {
    node.fail(`labels ${showShape(labels.shape)} do not fit ${showShape(shape)}`);
  }
  const isValid = ignored === undefined ? undefined : less(cast(equal(labels, ignored), "float32"), 0.5);
  const known = isValid ? where(isValid, labels, constant([0], [], "int64")) : labels;
  const classesLast = transpose(logProbabilities, [0, ...shape.map((_, axis) => axis).slice(2), 1]);
  const column = reshape(known, [...labels.shape, 1]);
  const picked = reshape(gatherElements(classesLast, column, labels.shape.length), labels.shape);
  const own = weights ? gather(weights, known) : undefined;
  const ones = own ?? constant([1], []);
  const share = isValid ? where(isValid, ones, constant([0], [])) : own;
  const losses = neg(share ? mul(picked, share) : picked);
  if (reduction === "none") return losses;
  const axes = labels.shape.map((_, axis) => axis);
  const total = sum(losses, axes);
  if (reduction === "sum") return total;
  return div(total, share ? sum(share, axes) : labels.shape.reduce((a, b) => a * b, 1));
}

export const losses: Operators = {
  NegativeLogLikelihoodLoss: (node) => negativeLogLikelihood(node, node.input(0)),
  SoftmaxCrossEntropyLoss: (node) => {
    const logits = node.input(0);
    const logProbabilities = sub(logits, logSumExp(logits, [1], true));
    return [negativeLogLikelihood(node, logProbabilities), logProbabilities];
  },
};
