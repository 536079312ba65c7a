/** Normalization and softmax. */
import { apply, apply1, type F64Array, type OpDef, showType, type TensorType, type Value } from "../graph/value.js";
import type { DType } from "../tensor/dtype.js";
import type { Shape } from "../tensor/shape.js";
import { add, mul } from "./elementwise.js";
import { reshape } from "./movement.js";

/** Over the last axis: (x - mean) / √(variance + ε), the mean, and the inverse standard deviation. */
function standardized(
  { shape, data }: F64Array,
  epsilon: number,
): [normal: F64Array, means: F64Array, inverse: F64Array] {
  const features = shape.at(-1) as number;
  const rows = data.length / features;
  const [normal, means, inverse] = [new Float64Array(data.length), new Float64Array(rows), new Float64Array(rows)];
  for (let row = 0; row < rows; row++) {
    const values = data.subarray(row * features, (row + 1) * features);
    const average = values.reduce((total, value) => total + value, 0) / features;
    const variance = values.reduce((total, value) => total + (value - average) ** 2, 0) / features;
    means[row] = average;
    inverse[row] = 1 / Math.sqrt(variance + epsilon);
    values.forEach((value, i) => {
      normal[row * features + i] = (value - average) * (inverse[row] as number);
    });
  }
  const statistics = statisticsOf(shape);
  return [
    { shape, data: normal },
    { shape: statistics, data: means },
    { shape: statistics, data: inverse },
  ];
}

const statisticsOf = (shape: Shape) => [...shape.slice(0, -1), 1];

/** ONNX Runtime computes and returns the statistics in float32 (`stash_type`), even if x is float16. */
const statisticsType = (dtype: DType): DType => (dtype === "float16" ? "float32" : dtype);

/**
 * Layer normalization over the last axis (Ba et al. 2016): (x - mean) / √(variance + ε) · scale + bias. It has three
 * outputs: y, and the mean and inverse standard deviation [..., 1] that the gradient needs.
 */
export const layerNormOp: OpDef<{ readonly epsilon: number }> = {
  name: "layerNorm",
  autocast: "float32",
  infer: ([x, scale, bias]) => {
    const { shape, dtype } = x as TensorType;
    const features = shape.at(-1);
    for (const affine of [scale, bias]) {
      if (affine?.shape.length !== 1 || affine.shape[0] !== features) {
        throw new TypeError(
          `layerNorm: scale and bias must be [${features}] for input ${showType(x as TensorType)}, but got ${affine ? showType(affine) : "none"}`,
        );
      }
    }
    const statistics = { shape: statisticsOf(shape), dtype: statisticsType(dtype) };
    return [{ shape, dtype }, statistics, statistics];
  },
  emit: (w, inputs, { attrs }) =>
    w.node("LayerNormalization", inputs, { axis: -1, epsilon: { float: attrs.epsilon } }, 3),
  evaluate: ([x, scale, bias], { attrs }) => {
    const [normal, ...statistics] = standardized(x as F64Array, attrs.epsilon);
    const features = normal.shape.at(-1) as number;
    const data = normal.data.map(
      (value, i) =>
        value * ((scale as F64Array).data[i % features] as number) + ((bias as F64Array).data[i % features] as number),
    );
    return [{ shape: normal.shape, data }, ...statistics];
  },
};

/**
 * Layer normalization without scale and bias: (x - mean) / √(variance + ε) over the last axis. It has two outputs: y
 * and the inverse standard deviation [..., 1]. The gradient needs these two, but neither x nor the mean.
 */
export const standardizeOp: OpDef<{ readonly epsilon: number }> = {
  name: "standardize",
  autocast: "float32",
  infer: ([x]) => {
    const { shape, dtype } = x as TensorType;
    return [
      { shape, dtype },
      { shape: statisticsOf(shape), dtype: statisticsType(dtype) },
    ];
  },
  emit: (w, [x], { attrs, outputs }) => {
    const { shape, dtype } = outputs[0] as Value;
    const features = shape.at(-1) as number;
    const ones = w.filled(1, [features], dtype);
    const epsilon = { float: attrs.epsilon };
    const [y, , inverse] = w.node("LayerNormalization", [x as string, ones], { axis: -1, epsilon }, 3);
    return [y as string, inverse as string];
  },
  evaluate: ([x], { attrs }) => {
    const [y, , inverse] = standardized(x as F64Array, attrs.epsilon);
    return [y, inverse];
  },
};

export const softmaxOp: OpDef<Record<string, never>> = {
  name: "softmax",
  autocast: "float32",
  infer: ([x]) => [x as TensorType],
  emit: (w, [x]) => w.node("Softmax", [x as string], { axis: -1 }),
  evaluate: ([x]) => {
    const { shape, data } = x as F64Array;
    const width = shape.at(-1) as number;
    const out = new Float64Array(data.length);
    for (let start = 0; start < data.length; start += width) {
      const row = data.subarray(start, start + width);
      const top = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
      const total = row.reduce((sum, value) => sum + Math.exp(value - top), 0);
      row.forEach((value, i) => {
        out[start + i] = Math.exp(value - top) / total;
      });
    }
    return [{ shape, data: out }];
  },
};

/** Layer normalization over the last axis of x [..., n], with scale and bias [n]. */
export function layerNorm(x: Value, scale: Value, bias: Value, epsilon = 1e-5): Value {
  return apply(layerNormOp, [x, scale, bias], { epsilon })[0] as Value;
}

/** Layer normalization over the last axis of x [..., n], without scale and bias. */
export function standardize(x: Value, epsilon = 1e-5): Value {
  return apply(standardizeOp, [x], { epsilon })[0] as Value;
}

/**
 * Group normalization of x [b, c, ...] over each group of channels and its pixels (Wu & He 2018), scale and bias [c].
 */
export function groupNorm(
  x: Value,
  groups: number,
  { scale, bias, epsilon = 1e-5 }: { readonly scale: Value; readonly bias: Value; readonly epsilon?: number },
): Value {
  const [batch, channels, ...pixels] = x.shape as [number, number, ...number[]];
  if (channels % groups !== 0)
    throw new TypeError(`groupNorm: ${channels} channels are not divisible into ${groups} groups`);
  const normal = reshape(standardize(reshape(x, [batch, groups, -1]), epsilon), x.shape);
  const perChannel = [channels, ...pixels.map(() => 1)];
  return add(mul(normal, reshape(scale, perChannel)), reshape(bias, perChannel));
}

/** Softmax over the last axis. */
export function softmax(x: Value): Value {
  return apply1(softmaxOp, [x], {});
}
