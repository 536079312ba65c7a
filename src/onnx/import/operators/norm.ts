/** Normalization layers and softmax: https://onnx.ai/onnx/operators/ */
import type { Value } from "../../../graph/value.js";
import {
  abs,
  add,
  broadcastTo,
  div,
  exp,
  filled,
  groupNorm,
  layerNorm,
  log,
  max,
  mean,
  mul,
  pad,
  pow,
  reshape,
  slice,
  softmax,
  sqrt,
  sub,
  sum,
  transpose,
} from "../../../ops/index.js";
import { showShape, sizeOf } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import type { Operators } from "./operator.js";

const EPSILON = 1e-5;

/** Batch normalization with running statistics (Ioffe & Szegedy 2015), which is an affine map of each channel. */
function batchNorm(node: OnnxNode): Value {
  const x = node.input(0);
  const [scale, bias, average, variance] = [1, 2, 3, 4].map((i) => node.input(i)) as [Value, Value, Value, Value];
  if (node.int("training_mode") === 1) node.fail("is in training mode. Export the model after model.eval()");
  const perChannel = (value: Value) => reshape(value, [-1, ...x.shape.slice(2).map(() => 1)]);
  const factor = div(scale, sqrt(add(variance, node.float("epsilon") ?? EPSILON)));
  return add(mul(x, perChannel(factor)), perChannel(sub(bias, mul(average, factor))));
}

function groupNormalization(node: OnnxNode): Value {
  const x = node.input(0);
  const channels = x.shape[1] ?? node.fail(`${showShape(x.shape)} has no channels`);
  const count = node.int("num_groups") ?? node.fail("the attribute num_groups is missing");
  // Opset 18 has one scale per group, later opsets have one per channel.
  const perChannel = (value: Value) =>
    value.shape[0] === channels
      ? value
      : reshape(broadcastTo(reshape(value, [-1, 1]), [count, channels / count]), [-1]);
  return groupNorm(x, count, {
    scale: perChannel(node.input(1)),
    bias: perChannel(node.input(2)),
    epsilon: node.float("epsilon") ?? EPSILON,
  });
}

function layerNormalization(node: OnnxNode): Value {
  const x = node.input(0);
  if (node.outputs > 1) node.fail("its optional outputs, mean and inverse standard deviation, are not supported");
  const axis = node.axis("axis", -1, x.shape.length);
  const features = x.shape.slice(axis);
  const flat = (value: Value) => reshape(broadcastTo(value, features), [-1]);
  const [scale, bias] = [node.input(1), node.inputs[2]];
  const rows = reshape(x, [...x.shape.slice(0, axis), sizeOf(features)]);
  const zeros = () => filled([sizeOf(features)], 0);
  return reshape(layerNorm(rows, flat(scale), bias ? flat(bias) : zeros(), node.float("epsilon") ?? EPSILON), x.shape);
}

/** x / √(mean x² + ε) · scale (Zhang & Sennrich 2019) */
function rmsNormalization(node: OnnxNode): Value {
  const x = node.input(0);
  const axis = node.axis("axis", -1, x.shape.length);
  const axes = x.shape.map((_, i) => i).slice(axis);
  const square = mean(mul(x, x), axes, { keepDims: true });
  return mul(mul(x, pow(add(square, node.float("epsilon") ?? EPSILON), -0.5)), node.input(1));
}

/** Local response normalization across channels (Krizhevsky et al. 2012, section 3.3). */
function localResponseNormalization(node: OnnxNode): Value {
  const x = node.input(0);
  const size = node.int("size") ?? node.fail("the attribute size is missing");
  const channels = x.shape[1] ?? node.fail(`${showShape(x.shape)} has no channels`);
  if (!(size >= 1 && size <= channels))
    node.fail(`size is ${size}, but must be from 1 to the number of channels, ${channels}`);
  const before = Math.floor((size - 1) / 2);
  const around = x.shape.map((_, axis): [number, number] => (axis === 1 ? [before, size - 1 - before] : [0, 0]));
  const squares = pad(mul(x, x), around);
  const parts = Array.from({ length: size }, (_, i) => slice(squares, 1, [i, i + channels]));
  const scale = (node.float("alpha") ?? 1e-4) / size;
  const power = pow(add(mul(parts.reduce(add), scale), node.float("bias") ?? 1), -(node.float("beta") ?? 0.75));
  return mul(x, power);
}

/**
 * Applies `f`, which works on the last axis, to the axis that the node names. Before opset 13, the named axis and those after
 * it are flattened into one.
 */
function alongAxis(node: OnnxNode, f: (x: Value) => Value): Value {
  const x = node.input(0);
  const rank = x.shape.length;
  if (node.opset < 13) {
    const axis = node.axis("axis", 1, rank);
    return reshape(f(reshape(x, [sizeOf(x.shape.slice(0, axis)), -1])), x.shape);
  }
  const axis = node.axis("axis", -1, rank);
  if (axis === rank - 1) return f(x);
  const swapped = x.shape.map((_, i) => (i === axis ? rank - 1 : i === rank - 1 ? axis : i));
  return transpose(f(transpose(x, swapped)), swapped);
}

/** log Σ exp(x) over `axes`, shifted by the maximum so that it does not overflow. */
export function logSumExp(x: Value, axes: readonly number[], keepDims: boolean): Value {
  const top = max(x, axes, { keepDims: true });
  const total = log(sum(exp(sub(x, top)), axes, { keepDims }));
  return add(keepDims ? top : reshape(top, total.shape), total);
}

export const norms: Operators = {
  BatchNormalization: batchNorm,
  InstanceNormalization: (node) => {
    const x = node.input(0);
    const channels = x.shape[1] ?? node.fail(`${showShape(x.shape)} has no channels`);
    return groupNorm(x, channels, {
      scale: node.input(1),
      bias: node.input(2),
      epsilon: node.float("epsilon") ?? EPSILON,
    });
  },
  GroupNormalization: groupNormalization,
  LayerNormalization: layerNormalization,
  RMSNormalization: rmsNormalization,
  LRN: localResponseNormalization,
  LpNormalization: (node) => {
    const x = node.input(0);
    const axis = node.axis("axis", -1, x.shape.length);
    const power = node.int("p") ?? 2;
    if (power === 1) return div(x, sum(abs(x), axis, { keepDims: true }));
    return div(x, sqrt(sum(mul(x, x), axis, { keepDims: true })));
  },
  Softmax: (node) => alongAxis(node, softmax),
  LogSoftmax: (node) => alongAxis(node, (x) => sub(x, logSumExp(x, [-1], true))),
};
