/**
 * Convolution, pooling and resizing of images [b, c, h, w] and signals [b, c, l]: https://onnx.ai/onnx/operators/
 * A signal is computed as an image with one row.
 */
import type { Value } from "../../../graph/value.js";
import { type Padding, reach } from "../../../ops/conv.js";
import {
  add,
  averagePool,
  constant,
  conv2d,
  convTranspose2d,
  filled,
  max,
  maxPool,
  mean,
  mul,
  reshape,
  slice,
  upsampleNearest,
} from "../../../ops/index.js";
import { CUBIC, LINEAR, type Resampling, resample } from "../../../ops/resize.js";
import { type Shape, showShape } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import type { Operators } from "./operator.js";

const AUTO_PAD = ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"] as const;
type Pair = readonly [number, number];

/** The sliding window of a convolution or a pooling. */
interface Window {
  readonly kernel: Pair;
  readonly stride: Pair;
  readonly dilation: number;
  readonly padding: Padding;
  /** Size of the output, [height, width]. */
  readonly size: Pair;
}

/** x [b, c, h, w] as it is, or a signal [b, c, l] → [b, c, 1, l] */
function asImage(x: Value, node: OnnxNode): Value {
  if (x.shape.length === 4) return x;
  const [b, c, length] = x.shape as [number, number, number];
  return x.shape.length === 3
    ? reshape(x, [b, c, 1, length])
    : node.fail(`expects an image [b, c, h, w] or a signal [b, c, l], found ${showShape(x.shape)}`);
}

/** Drops the one row of y again if the input was a signal. */
const asSignal = (y: Value, like: Value) =>
  like.shape.length === 3 ? reshape(y, [y.shape[0] as number, y.shape[1] as number, y.shape[3] as number]) : y;

/** An attribute with one number per spatial axis. For a signal, the axis of its one row gets the default. */
function perAxis(node: OnnxNode, name: string, rank: number, otherwise = 1): Pair {
  if (rank !== 3 && rank !== 4) node.fail(`expects an image [b, c, h, w] or a signal [b, c, l], found ${rank} axes`);
  const given = node.ints(name) ?? new Array<number>(rank - 2).fill(otherwise);
  const pair = rank === 3 ? [otherwise, ...given] : given;
  if (pair.length !== 2 || pair.some((value) => value < (name === "output_padding" ? 0 : 1) || value > 2 ** 20)) {
    node.fail(`${name} ${showShape(given)} is not valid for ${rank - 2} spatial axes`);
  }
  return pair as unknown as Pair;
}

function windowOf(node: OnnxNode, x: Value, kernel: Pair): Window {
  const rank = x.shape.length;
  const stride = perAxis(node, "strides", rank);
  const dilations = perAxis(node, "dilations", rank).map((dilation, i) => (kernel[i] === 1 ? 1 : dilation));
  const [tall = 1, wide = 1] = dilations;
  // The dilation of an axis with one tap has no effect.
  const dilation = kernel[0] === 1 ? wide : tall;
  if (kernel[0] !== 1 && kernel[1] !== 1 && tall !== wide)
    node.fail(`different dilations per axis ${showShape(dilations)} are not supported`);
  const extents = (rank === 3 ? [1, x.shape[2]] : x.shape.slice(2)) as [number, number];
  const ceil = node.int("ceil_mode") === 1;
  const automatic = node.choice("auto_pad", AUTO_PAD, "NOTSET");
  const given = node.ints("pads") ?? new Array<number>(2 * (rank - 2)).fill(0);
  const pads = rank === 3 ? [0, given[0], 0, given[1]] : given;
  if (given.length !== 2 * (rank - 2) || given.some((value) => value < 0))
    node.fail(`pads ${showShape(given)} must be ${2 * (rank - 2)} numbers that are not negative`);
  const sides = ([0, 1] as const).map((axis) => {
    const [extent, taps, step] = [extents[axis], reach(kernel[axis], dilation), stride[axis]];
    let [before, after] = [pads[axis] as number, pads[axis + 2] as number];
    if (automatic !== "NOTSET") [before, after] = [0, 0];
    let size = Math.floor((extent + before + after - taps) / step) + 1;
    if (automatic === "SAME_UPPER" || automatic === "SAME_LOWER") {
      size = Math.ceil(extent / step);
      const total = Math.max(0, (size - 1) * step + taps - extent);
      before = automatic === "SAME_UPPER" ? Math.floor(total / 2) : Math.ceil(total / 2);
      after = total - before;
    } else if (ceil) {
      size = Math.ceil((extent + before + after - taps) / step) + 1;
      // A window must begin inside the image or the padding before it.
      if ((size - 1) * step >= extent + before) size--;
      after = Math.max(0, (size - 1) * step + taps - extent - before);
    }
    return { before, after, size };
  }) as [Side, Side];
  const [rows, columns] = sides;
  return {
    kernel,
    stride,
    dilation,
    padding: [rows.before, columns.before, rows.after, columns.after],
    size: [rows.size, columns.size],
  };
}

interface Side {
  readonly before: number;
  readonly after: number;
  readonly size: number;
}

function convolution(node: OnnxNode): Value {
  const [given, bias] = [node.input(0), node.inputs[2]];
  const [x, weight] = [asImage(given, node), asImage(node.input(1), node)];
  const kernel = weight.shape.slice(2) as unknown as Pair;
  const { stride, dilation, padding } = windowOf(node, given, kernel);
  const groups = node.int("group") ?? 1;
  const [down, across] = stride;
  const options = { padding, dilation, groups };
  if (down === across) return asSignal(conv2d(x, weight, bias, { ...options, stride: down }), given);
  // Different strides per axis: convolve with stride 1, then subsample.
  const dense = conv2d(x, weight, bias, options);
  const [, , height, width] = dense.shape as [number, number, number, number];
  return asSignal(slice(slice(dense, 2, [0, height], { step: down }), 3, [0, width], { step: across }), given);
}

function transposedConvolution(node: OnnxNode): Value {
  const [given, bias] = [node.input(0), node.inputs[2]];
  const [x, weight] = [asImage(given, node), asImage(node.input(1), node)];
  const rank = given.shape.length;
  const stride = perAxis(node, "strides", rank);
  const dilations = perAxis(node, "dilations", rank);
  const extra = perAxis(node, "output_padding", rank, 0);
  node.choice("auto_pad", ["NOTSET"], "NOTSET");
  if (stride[0] !== stride[1] && rank === 4)
    node.fail(`different strides per axis ${showShape(stride)} are not supported`);
  if (dilations[0] !== dilations[1] && rank === 4)
    node.fail(`different dilations per axis ${showShape(dilations)} are not supported`);
  if (node.ints("output_shape"))
    node.fail("output_shape is not supported. Export with pads and output_padding instead");
  const pads = node.ints("pads") ?? new Array<number>(2 * (rank - 2)).fill(0);
  const padding = (rank === 3 ? [0, pads[0], 0, pads[1]] : pads) as unknown as Padding;
  // For a signal, the stride and dilation of its one row have no effect.
  const [step, dilation] = [stride[1], dilations[1]];
  const size = ([0, 1] as const).map((axis) => {
    const [extent, taps] = [x.shape[axis + 2] as number, weight.shape[axis + 2] as number];
    return (extent - 1) * step + reach(taps, dilation) + extra[axis] - padding[axis] - padding[(axis + 2) as 2 | 3];
  }) as unknown as Pair;
  if (size.some((extent) => !(extent >= 1))) node.fail(`the output would be empty: ${size.join("x")}`);
  const y = convTranspose2d(x, weight, size, { stride: step, padding, dilation, groups: node.int("group") ?? 1 });
  return asSignal(bias ? add(y, reshape(bias, [-1, 1, 1])) : y, given);
}

function maximumPool(node: OnnxNode): Value {
  const x = node.input(0);
  if (node.outputs > 1) node.fail("its second output, the indices of the maxima, is not supported");
  const window = windowOf(node, x, perAxis(node, "kernel_shape", x.shape.length));
  return asSignal(maxPool(asImage(x, node), window.kernel, window), x);
}

function meanPool(node: OnnxNode): Value {
  const given = node.input(0);
  const window = windowOf(node, given, perAxis(node, "kernel_shape", given.shape.length));
  const { kernel, stride, padding, size, dilation } = window;
  const x = asImage(given, node);
  const [, c, h, w] = x.shape as [number, number, number, number];
  const [factor] = kernel;
  const tiles = [kernel[1], ...stride].every((n) => n === factor) && padding.every((n) => n === 0) && dilation === 1;
  if (tiles && h % factor === 0 && w % factor === 0) return asSignal(averagePool(x, factor), given);
  if (stride[0] !== stride[1]) node.fail(`different strides per axis ${showShape(stride)} are not supported`);
  const ones = filled([c, 1, ...kernel], 1);
  const sums = conv2d(x, ones, undefined, { stride: stride[0], padding, dilation, groups: c });
  const includesPadding = node.int("count_include_pad") === 1;
  const stated = node.ints("pads") ?? [];
  const counts = ([0, 1] as const).map((axis) => {
    const extent = axis === 0 ? h : w;
    // The extra padding of ceil_mode is never counted.
    const after = stated[axis + stated.length / 2] ?? padding[(axis + 2) as 2 | 3];
    const [low, high] = includesPadding ? [-padding[axis], extent + after] : [0, extent];
    return Array.from({ length: size[axis] }, (_, i) => {
      const taps = Array.from({ length: kernel[axis] }, (_, tap) => i * stride[axis] - padding[axis] + tap * dilation);
      return taps.filter((position) => position >= low && position < high).length;
    });
  }) as [number[], number[]];
  const weights = counts[0].flatMap((rows) => counts[1].map((columns) => 1 / (rows * columns)));
  return asSignal(mul(sums, constant(weights, [...size])), given);
}

const pixelAxes = ({ shape }: Value) => shape.map((_, axis) => axis).slice(2);

/** The input position of an output position: https://onnx.ai/onnx/operators/onnx__Resize.html */
const COORDINATES = {
  half_pixel: (i: number, scale: number) => (i + 0.5) / scale - 0.5,
  half_pixel_symmetric: (i: number, scale: number, from: number, to: number) =>
    (from / 2) * (1 - to / (from * scale)) + (i + 0.5) / scale - 0.5,
  pytorch_half_pixel: (i: number, scale: number, _: number, to: number) => (to > 1 ? (i + 0.5) / scale - 0.5 : 0),
  align_corners: (i: number, _: number, from: number, to: number) => (to > 1 ? (i * (from - 1)) / (to - 1) : 0),
  asymmetric: (i: number, scale: number) => i / scale,
} as const;
const COORDINATE_MODES = Object.keys(COORDINATES) as (keyof typeof COORDINATES)[];

const ROUNDING = {
  round_prefer_floor: (x: number) => Math.ceil(x - 0.5),
  round_prefer_ceil: (x: number) => Math.floor(x + 0.5),
  floor: Math.floor,
  ceil: Math.ceil,
} as const;
const NEAREST_MODES = Object.keys(ROUNDING) as (keyof typeof ROUNDING)[];

/** Limit on the resampling matrix of one axis, so that a hostile file cannot fill the memory. */
const MAX_WEIGHTS = 2 ** 24;

function resized(node: OnnxNode): Value {
  const x = node.input(0);
  const before11 = node.opset < 11;
  node.choice("keep_aspect_ratio_policy", ["stretch"], "stretch");
  const axes = node.ints("axes") ?? x.shape.map((_, axis) => axis);
  const complete = (values: readonly number[], rest: (axis: number) => number): number[] => {
    if (values.length !== axes.length) node.fail(`has ${values.length} sizes or scales for ${axes.length} axes`);
    return x.shape.map(
      (_, axis) => values[axes.findIndex((at) => (at < 0 ? at + x.shape.length : at) === axis)] ?? rest(axis),
    );
  };
  const sizes = before11 ? undefined : node.integers(3, "sizes");
  const factors = node.floats("scales") ?? node.numbers(before11 ? 1 : 2, "scales");
  const isGiven = (values: readonly number[] | undefined): values is number[] =>
    values !== undefined && values.length > 0;
  if (!isGiven(sizes) && !isGiven(factors)) node.fail("sizes and scales are both missing");
  const size = isGiven(sizes)
    ? complete(sizes, (axis) => x.shape[axis] as number)
    : complete(factors as number[], () => 1).map((scale, axis) => Math.floor((x.shape[axis] as number) * scale));
  const scales = isGiven(sizes)
    ? size.map((extent, axis) => extent / (x.shape[axis] as number))
    : complete(factors as number[], () => 1);
  return resizeTo(node, x, { size, scales, before11 });
}

interface Target {
  readonly size: Shape;
  readonly scales: readonly number[];
  /** The attributes of older opsets are fixed: asymmetric coordinates and floor. */
  readonly before11: boolean;
}

function resizeTo(node: OnnxNode, x: Value, { size, scales, before11 }: Target): Value {
  const mode = node.choice("mode", ["nearest", "linear", "bilinear", "cubic"], "nearest");
  const transformation = before11
    ? "asymmetric"
    : node.choice("coordinate_transformation_mode", COORDINATE_MODES, "half_pixel");
  const rounding = before11 ? "floor" : node.choice("nearest_mode", NEAREST_MODES, "round_prefer_floor");
  const antialias = node.int("antialias") === 1;
  const outside = node.int("exclude_outside") === 1 ? "exclude" : "clamp";
  const rank = x.shape.length;
  const moved = size.findIndex((extent, axis) => extent !== x.shape[axis] && axis < rank - 2);
  if (moved >= 0)
    node.fail(`resizes axis ${moved} of ${showShape(x.shape)}, but only the last two axes can be resized`);
  if (size.some((extent) => extent < 1)) node.fail(`the output would be empty: ${showShape(size)}`);

  const [h, w] = x.shape.slice(-2) as [number, number];
  const [height, width] = size.slice(-2) as [number, number];
  const factor = height / h;
  const tiled = factor === width / w && Number.isInteger(factor) && rank === 4;
  const isHalfPixel = transformation === "half_pixel" || transformation === "pytorch_half_pixel";
  if (
    mode === "nearest" &&
    tiled &&
    ((transformation === "asymmetric" && rounding === "floor") || (isHalfPixel && rounding.startsWith("round")))
  ) {
    return factor === 1 ? x : upsampleNearest(x, factor);
  }
  const along = (axis: number): Resampling | undefined => {
    const [from, to, scale] = [x.shape[axis] as number, size[axis] as number, scales[axis] as number];
    if (from === to && scale === 1) return undefined;
    if (from * to > MAX_WEIGHTS) node.fail(`resizing ${from} to ${to} pixels takes too much memory`);
    const at = (i: number) => COORDINATES[transformation](i, scale, from, to);
    const stretch = antialias ? Math.max(1, 1 / scale) : 1;
    switch (mode) {
      case "nearest":
        return { from, to, kernel: LINEAR, position: (i) => ROUNDING[rounding](at(i)) };
      case "linear":
      case "bilinear":
        return { from, to, kernel: LINEAR, position: at, outside, stretch };
      case "cubic":
        return { from, to, kernel: CUBIC(node.float("cubic_coeff_a") ?? -0.75), position: at, outside, stretch };
    }
  };
  return resample(x, along(rank - 2), along(rank - 1));
}

export const image: Operators = {
  Conv: convolution,
  ConvTranspose: transposedConvolution,
  MaxPool: maximumPool,
  AveragePool: meanPool,
  GlobalAveragePool: (node) => mean(node.input(0), pixelAxes(node.input(0)), { keepDims: true }),
  GlobalMaxPool: (node) => max(node.input(0), pixelAxes(node.input(0)), { keepDims: true }),
  Resize: resized,
  Upsample: (node) => {
    const x = node.input(0);
    const scales = node.floats("scales") ?? node.numbers(1, "scales") ?? node.fail("scales are missing");
    if (scales.length !== x.shape.length) node.fail(`has ${scales.length} scales for ${x.shape.length} axes`);
    const size = scales.map((scale, axis) => Math.floor((x.shape[axis] as number) * scale));
    return resizeTo(node, x, { size, scales, before11: true });
  },
};
