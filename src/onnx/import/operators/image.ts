/** Convolutions, pooling and resizing of pictures [b, c, h, w]; signals [b, c, l] are pictures of one row. */
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

/** How a window moves over a picture. */
interface Window {
  readonly kernel: Pair;
  readonly stride: Pair;
  readonly dilation: number;
  readonly padding: Padding;
  /** What the windows give, [height, width]. */
  readonly size: Pair;
}

/** A signal's [b, c, l] as a picture [b, c, 1, l]. */
function asPicture(x: Value, node: OnnxNode): Value {
  if (x.shape.length === 4) return x;
  const [b, c, length] = x.shape as [number, number, number];
  return x.shape.length === 3
    ? reshape(x, [b, c, 1, length])
    : node.fail(`works on signals [b, c, l] and pictures [b, c, h, w], not on ${showShape(x.shape)}`);
}

const asSignal = (y: Value, like: Value) =>
  like.shape.length === 3 ? reshape(y, [y.shape[0] as number, y.shape[1] as number, y.shape[3] as number]) : y;

/** Attributes with a number for each axis, those of signals filled up with a `first` for their one row. */
function perAxis(node: OnnxNode, name: string, rank: number, first: number, otherwise: number): Pair {
  if (rank !== 3 && rank !== 4) node.fail(`works on signals [b, c, l] and pictures [b, c, h, w], not on ${rank} axes`);
  const given = node.ints(name) ?? new Array<number>(rank - 2).fill(otherwise);
  const pair = rank === 3 ? [first, ...given] : given;
  if (pair.length !== 2 || pair.some((value) => value < (name === "output_padding" ? 0 : 1) || value > 2 ** 20)) {
    node.fail(`${name} ${showShape(given)} does not fit ${rank - 2} axes`);
  }
  return pair as unknown as Pair;
}

function windowOf(node: OnnxNode, x: Value, kernel: Pair): Window {
  const rank = x.shape.length;
  const stride = perAxis(node, "strides", rank, 1, 1);
  const dilations = perAxis(node, "dilations", rank, 1, 1).map((dilation, i) => (kernel[i] === 1 ? 1 : dilation));
  const [tall = 1, wide = 1] = dilations;
  // Where the kernel has one tap, its dilation means nothing.
  const dilation = kernel[0] === 1 ? wide : tall;
  if (kernel[0] !== 1 && kernel[1] !== 1 && tall !== wide) node.fail(`dilations ${showShape(dilations)} are not equal`);
  const extents = (rank === 3 ? [1, x.shape[2]] : x.shape.slice(2)) as [number, number];
  const ceil = node.int("ceil_mode") === 1;
  const automatic = node.choice("auto_pad", AUTO_PAD, "NOTSET");
  const given = node.ints("pads") ?? new Array<number>(2 * (rank - 2)).fill(0);
  const pads = rank === 3 ? [0, given[0], 0, given[1]] : given;
  if (given.length !== 2 * (rank - 2) || given.some((value) => value < 0))
    node.fail(`pads ${showShape(given)} do not fit`);
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
      // A window must begin inside the picture or the padding before it.
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
  const [x, weight] = [asPicture(given, node), asPicture(node.input(1), node)];
  const kernel = weight.shape.slice(2) as unknown as Pair;
  const { stride, dilation, padding } = windowOf(node, given, kernel);
  const groups = node.int("group") ?? 1;
  const [down, across] = stride;
  const options = { padding, dilation, groups };
  if (down === across) return asSignal(conv2d(x, weight, bias, { ...options, stride: down }), given);
  // Steps that differ are taken afterwards.
  const dense = conv2d(x, weight, bias, options);
  const [, , height, width] = dense.shape as [number, number, number, number];
  return asSignal(slice(slice(dense, 2, 0, height, down), 3, 0, width, across), given);
}

function transposedConvolution(node: OnnxNode): Value {
  const [given, bias] = [node.input(0), node.inputs[2]];
  const [x, weight] = [asPicture(given, node), asPicture(node.input(1), node)];
  const rank = given.shape.length;
  const stride = perAxis(node, "strides", rank, 1, 1);
  const dilations = perAxis(node, "dilations", rank, 1, 1);
  const extra = perAxis(node, "output_padding", rank, 0, 0);
  node.choice("auto_pad", ["NOTSET"], "NOTSET");
  if (stride[0] !== stride[1] && rank === 4) node.fail(`strides ${showShape(stride)} are not equal`);
  if (dilations[0] !== dilations[1] && rank === 4) node.fail(`dilations ${showShape(dilations)} are not equal`);
  if (node.ints("output_shape")) node.fail("output_shape is not supported; give pads and output_padding");
  const pads = node.ints("pads") ?? new Array<number>(2 * (rank - 2)).fill(0);
  const padding = (rank === 3 ? [0, pads[0], 0, pads[1]] : pads) as unknown as Padding;
  // One row under a stride is one row.
  const [step, dilation] = [stride[1], dilations[1]];
  const size = ([0, 1] as const).map((axis) => {
    const [extent, taps] = [x.shape[axis + 2] as number, weight.shape[axis + 2] as number];
    return (extent - 1) * step + reach(taps, dilation) + extra[axis] - padding[axis] - padding[(axis + 2) as 2 | 3];
  }) as unknown as Pair;
  if (size.some((extent) => !(extent >= 1))) node.fail(`gives a picture of ${size.join("x")}`);
  const y = convTranspose2d(x, weight, size, { stride: step, padding, dilation, groups: node.int("group") ?? 1 });
  return asSignal(bias ? add(y, reshape(bias, [-1, 1, 1])) : y, given);
}

function maximumPool(node: OnnxNode): Value {
  const x = node.input(0);
  if (node.outputs > 1) node.fail("its second output, the places of the maxima, is not supported");
  const window = windowOf(node, x, perAxis(node, "kernel_shape", x.shape.length, 1, 1));
  return asSignal(maxPool(asPicture(x, node), window.kernel, window), x);
}

function meanPool(node: OnnxNode): Value {
  const given = node.input(0);
  const window = windowOf(node, given, perAxis(node, "kernel_shape", given.shape.length, 1, 1));
  const { kernel, stride, padding, size, dilation } = window;
  const x = asPicture(given, node);
  const [, c, h, w] = x.shape as [number, number, number, number];
  const [factor] = kernel;
  const tiles = [kernel[1], ...stride].every((n) => n === factor) && padding.every((n) => n === 0) && dilation === 1;
  if (tiles && h % factor === 0 && w % factor === 0) return asSignal(averagePool(x, factor), given);
  if (stride[0] !== stride[1]) node.fail(`strides ${showShape(stride)} are not equal`);
  const ones = filled([c, 1, ...kernel], 1);
  const sums = conv2d(x, ones, undefined, { stride: stride[0], padding, dilation, groups: c });
  const includesPadding = node.int("count_include_pad") === 1;
  const stated = node.ints("pads") ?? [];
  const counts = ([0, 1] as const).map((axis) => {
    const extent = axis === 0 ? h : w;
    // What ceil_mode adds to the padding never counts.
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

/** Where an output position lies in the input: https://onnx.ai/onnx/operators/onnx__Resize.html */
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

/** Weights of a resize are a matrix; a file must not ask for one that fills the memory. */
const MOST_WEIGHTS = 2 ** 24;

function resized(node: OnnxNode): Value {
  const x = node.input(0);
  const before11 = node.opset < 11;
  node.choice("keep_aspect_ratio_policy", ["stretch"], "stretch");
  const axes = node.ints("axes") ?? x.shape.map((_, axis) => axis);
  const complete = (values: readonly number[], rest: (axis: number) => number): number[] => {
    if (values.length !== axes.length) node.fail(`${values.length} sizes or scales for ${axes.length} axes`);
    return x.shape.map(
      (_, axis) => values[axes.findIndex((at) => (at < 0 ? at + x.shape.length : at) === axis)] ?? rest(axis),
    );
  };
  const sizes = before11 ? undefined : node.integers(3, "sizes");
  const factors = node.floats("scales") ?? node.numbers(before11 ? 1 : 2, "scales");
  const isGiven = (values: readonly number[] | undefined): values is number[] =>
    values !== undefined && values.length > 0;
  if (!isGiven(sizes) && !isGiven(factors)) node.fail("has neither sizes nor scales");
  const size = isGiven(sizes)
    ? complete(sizes, (axis) => x.shape[axis] as number)
    : complete(factors as number[], () => 1).map((scale, axis) => Math.floor((x.shape[axis] as number) * scale));
  const scales = isGiven(sizes)
    ? size.map((extent, axis) => extent / (x.shape[axis] as number))
    : complete(factors as number[], () => 1);
  return scaled(node, x, size, scales, before11);
}

function scaled(node: OnnxNode, x: Value, size: Shape, scales: readonly number[], before11: boolean): Value {
  const mode = node.choice("mode", ["nearest", "linear", "bilinear", "cubic"], "nearest");
  const transformation = before11
    ? "asymmetric"
    : node.choice("coordinate_transformation_mode", COORDINATE_MODES, "half_pixel");
  const rounding = before11 ? "floor" : node.choice("nearest_mode", NEAREST_MODES, "round_prefer_floor");
  const antialias = node.int("antialias") === 1;
  const outside = node.int("exclude_outside") === 1 ? "exclude" : "clamp";
  const rank = x.shape.length;
  const moved = size.findIndex((extent, axis) => extent !== x.shape[axis] && axis < rank - 2);
  if (moved >= 0) node.fail(`resizes axis ${moved} of ${showShape(x.shape)}; only the last two can be`);
  if (size.some((extent) => extent < 1)) node.fail(`gives ${showShape(size)}`);

  const [h, w] = x.shape.slice(-2) as [number, number];
  const [height, width] = size.slice(-2) as [number, number];
  const factor = height / h;
  const tiled = factor === width / w && Number.isInteger(factor) && rank === 4;
  const centred = transformation === "half_pixel" || transformation === "pytorch_half_pixel";
  if (
    mode === "nearest" &&
    tiled &&
    ((transformation === "asymmetric" && rounding === "floor") || (centred && rounding.startsWith("round")))
  ) {
    return factor === 1 ? x : upsampleNearest(x, factor);
  }
  const along = (axis: number): Resampling | undefined => {
    const [from, to, scale] = [x.shape[axis] as number, size[axis] as number, scales[axis] as number];
    if (from === to && scale === 1) return undefined;
    if (from * to > MOST_WEIGHTS) node.fail(`resizes ${from} to ${to} pixels, which is too much`);
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
    const scales = node.floats("scales") ?? node.numbers(1, "scales") ?? node.fail("has no scales");
    if (scales.length !== x.shape.length) node.fail(`${scales.length} scales for ${x.shape.length} axes`);
    return scaled(
      node,
      x,
      scales.map((scale, axis) => Math.floor((x.shape[axis] as number) * scale)),
      scales,
      true,
    );
  },
};
