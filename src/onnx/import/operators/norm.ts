/** Normalization layers and softmax: https://onnx.ai/onnx/operators/ */
import type { Value } from "../../../graph/value.js";
import {
  abs,
  add,
  broadcastTo,
  cast,
  div,
  equal,
  exp,
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
  topK,
  transpose,
  where,
} from "../../../ops/index.js";
import { showShape, sizeOf } from "../../../tensor/shape.js";
import { integers, type OnnxNode } from "../node.js";
import { axesOf } from "./indexing.js";
import type { Operators } from "./operator.js";
import { repeated } from "./repeated.js";

const EPSILON = 1e-5;

/** Batch normalization with running statistics (Ioffe & Szegedy 2015), which is an affine map of each channel. */
function batchNorm(node: OnnxNode): Value {
  const x = node.input(0);
  const [scale, bias, average, variance] = [1, 2, 3, 4].map((i) => node.input(i)) as [Value, Value, Value, Value];
  const remedy = "Export the model after model.eval()";
  if (node.int("training_mode") === 1) node.fail(`is in training mode. ${remedy}`, { attribute: "training_mode" });
  // Before opset 14 had the attribute, further outputs meant the same.
  if (node.outputs > 1) {
    node.fail(`has ${node.outputs} outputs, so it is in training mode. ${remedy}`, { output: 1 });
  }
  if (node.int("spatial") === 0) {
    node.fail("has statistics for each pixel, which is not supported. Export the model with opset 9 or later", {
      attribute: "spatial",
    });
  }
  // It updates the running statistics in training.
  node.ignore("momentum");
  const perChannel = (value: Value) => reshape(value, [-1, ...x.shape.slice(2).map(() => 1)]);
  const factor = div(scale, sqrt(add(variance, node.float("epsilon") ?? EPSILON)));
  return add(mul(x, perChannel(factor)), perChannel(sub(bias, mul(average, factor))));
}

function groupNormalization(node: OnnxNode): Value {
  const x = node.input(0);
  const channels = x.shape[1] ?? node.fail(`${showShape(x.shape)} has no channels`);
  node.ignore("stash_type");
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

/** y, and if they are named the mean and the inverse standard deviation. */
function layerNormalization(node: OnnxNode): Value[] {
  const x = node.input(0);
  // The type of the statistics.
  node.ignore("stash_type");
  if (node.outputs > 3) node.fail(`names ${node.outputs} outputs, but has 3`);
  const axis = node.axis("axis", -1, x.shape.length);
  const features = x.shape.slice(axis);
  const flat = (value: Value) => reshape(broadcastTo(value, features), [-1]);
  const [scale, bias] = [node.input(1), node.optional(2)];
  const rows = reshape(x, [...x.shape.slice(0, axis), sizeOf(features)]);
  const zeros = () => repeated([sizeOf(features)], 0);
  const epsilon = node.float("epsilon") ?? EPSILON;
  const y = reshape(layerNorm(rows, flat(scale), bias ? flat(bias) : zeros(), epsilon), x.shape);
  if (node.outputs === 1) return [y];
  const axes = x.shape.map((_, i) => i).slice(axis);
  const average = mean(x, axes, { keepDims: true });
  const centered = sub(x, average);
  const variance = mean(mul(centered, centered), axes, { keepDims: true });
  return [y, average, pow(add(variance, epsilon), -0.5)];
}

/** x / √(mean x² + ε) · scale (Zhang & Sennrich 2019) */
function rmsNormalization(node: OnnxNode): Value {
  const x = node.input(0);
  node.ignore("stash_type");
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

/**
 * log Σ exp(x) over `axes`, shifted by the maximum so that it does not overflow. An infinite maximum does not shift, and where
 * the sum is 0 the result is -∞ without a gradient, as in torch.logsumexp.
 */
export function logSumExp(x: Value, axes: readonly number[], keepDims: boolean): Value {
  const largest = max(x, axes, { keepDims: true });
  const top = where(equal(abs(largest), Number.POSITIVE_INFINITY), 0, largest);
  const total = sum(exp(sub(x, top)), axes, { keepDims });
  const isZero = equal(total, 0);
  const shifted = add(keepDims ? top : reshape(top, total.shape), log(where(isZero, 1, total)));
  return where(isZero, Number.NEGATIVE_INFINITY, shifted);
}

/** √x whose gradient at 0 is 0, as that of PyTorch's norms. */
export function sqrtOrZero(x: Value): Value {
  const isZero = equal(x, 0);
  return where(isZero, 0, sqrt(where(isZero, 1, x)));
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
  MeanVarianceNormalization: (node) => {
    const x = node.input(0);
    const axes = axesOf(node.ints("axes") ?? [0, 2, 3], x.shape.length, "MeanVarianceNormalization");
    const centered = sub(x, mean(x, axes, { keepDims: true }));
    return div(centered, add(sqrtOrZero(mean(mul(centered, centered), axes, { keepDims: true })), 1e-9));
  },
  Hardmax: (node) =>
    alongAxis(node, (x) => {
      const extent = x.shape.at(-1) as number;
      const places = integers(Array.from({ length: extent }, (_, i) => i));
      return cast(equal(topK(x, 1, -1).indices, places), x.dtype);
    }),
  LRN: localResponseNormalization,
  LpNormalization: (node) => {
    const x = node.input(0);
    const axis = node.axis("axis", -1, x.shape.length);
    const power = node.int("p") ?? 2;
    if (power !== 1 && power !== 2) node.fail(`p is ${power}, but must be 1 or 2`, { attribute: "p", found: power });
    const total = sum(power === 1 ? abs(x) : mul(x, x), axis, { keepDims: true });
    const norm = power === 1 ? total : sqrtOrZero(total);
    // Where the norm is 0, so is the result.
    const isZero = equal(norm, 0);
    return where(isZero, 0, div(x, where(isZero, 1, norm)));
  },
  Softmax: (node) => alongAxis(node, softmax),
  LogSoftmax: (node) => alongAxis(node, (x) => sub(x, logSumExp(x, [-1], true))),
};
