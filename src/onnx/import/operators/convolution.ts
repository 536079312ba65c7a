/** Conv and ConvTranspose: https://onnx.ai/onnx/operators/ */
import type { Value } from "../../../graph/value.js";
import { reach } from "../../../ops/conv.js";
import { add, conv2d, convTranspose2d, pad, reshape, slice, transpose } from "../../../ops/index.js";
import { showShape } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import type { Operators } from "./operator.js";
import {
  type AxisWindow,
  asImage,
  asImageWindows,
  asSignal,
  paddingOf,
  perAxis,
  spatialAxes,
  windowsOf,
} from "./window.js";

/** The convolution of a node with the attributes of Conv. x [b, c, ...spatial], weight [out, c / group, ...kernel] */
export function convolve(node: OnnxNode, x: Value, weight: Value, bias: Value | undefined): Value {
  const kernel = weight.shape.slice(2);
  if (weight.shape.length !== x.shape.length) {
    return node.fail(`its weight ${showShape(weight.shape)} does not fit ${showShape(x.shape)}`);
  }
  requireKernel(node, kernel);
  const windows = windowsOf(node, x, kernel);
  const groups = node.int("group") ?? 1;
  if (windows.length < 3) {
    return asSignal(convolveImage(asImage(x), asImage(weight), { windows, bias, groups }), x);
  }
  // A volume is convolved frame by frame: each tap along the depth is a convolution of images.
  const [depth, ...plane] = windows as [AxisWindow, ...AxisWindow[]];
  const padded = padAxis(x, 2, depth.before, depth.after);
  const taps = Array.from({ length: depth.kernel }, (_, tap) => {
    const start = tap * depth.dilation;
    const frames = slice(padded, 2, [start, start + (depth.size - 1) * depth.stride + 1], { step: depth.stride });
    const [b, c, , h, w] = frames.shape as [number, number, number, number, number];
    const images = reshape(transpose(frames, [0, 2, 1, 3, 4]), [b * depth.size, c, h, w]);
    const [out, inner, , tall, wide] = weight.shape as [number, number, number, number, number];
    const layer = reshape(slice(weight, 2, [tap, tap + 1]), [out, inner, tall, wide]);
    return convolveImage(images, layer, { windows: plane, bias: tap === 0 ? bias : undefined, groups });
  });
  return asVolume(taps.reduce(add), x.shape[0] as number);
}

/** y [b · frames, c, h, w] → [b, c, frames, h, w] */
function asVolume(y: Value, batch: number): Value {
  const [images, c, h, w] = y.shape as [number, number, number, number];
  return transpose(reshape(y, [batch, images / batch, c, h, w]), [0, 2, 1, 3, 4]);
}

const padAxis = (x: Value, axis: number, before: number, after: number): Value =>
  before === 0 && after === 0
    ? x
    : pad(
        x,
        x.shape.map((_, i): [number, number] => (i === axis ? [before, after] : [0, 0])),
      );

interface Convolution {
  readonly windows: readonly AxisWindow[];
  readonly bias: Value | undefined;
  readonly groups: number;
}

function convolveImage(x: Value, weight: Value, { windows, bias, groups }: Convolution): Value {
  const pair = asImageWindows(windows);
  const [rows, columns] = pair;
  const { weight: taps, dilation } = withOneDilation(weight, [rows.dilation, columns.dilation]);
  const options = { padding: paddingOf(pair), dilation, groups };
  if (rows.stride === columns.stride) return conv2d(x, taps, bias, { ...options, stride: rows.stride });
  // Different strides per axis: convolve with stride 1, then subsample.
  const dense = conv2d(x, taps, bias, options);
  const [, , height, width] = dense.shape as [number, number, number, number];
  return slice(slice(dense, 2, [0, height], { step: rows.stride }), 3, [0, width], { step: columns.stride });
}

/** The dilation of both axes. If they differ, zeros are put between the taps, and it is 1. */
function withOneDilation(weight: Value, [tall, wide]: readonly [number, number]) {
  const [, , rows, columns] = weight.shape as [number, number, number, number];
  // The dilation of an axis with one tap has no effect.
  if (tall === wide || columns === 1) return { weight, dilation: tall };
  if (rows === 1) return { weight, dilation: wide };
  return { weight: spaced(spaced(weight, 2, tall), 3, wide), dilation: 1 };
}

/** x with `step - 1` zeros between its elements along an axis. */
function spaced(x: Value, axis: number, step: number): Value {
  if (step === 1) return x;
  const extent = x.shape[axis] as number;
  const [before, after] = [x.shape.slice(0, axis), x.shape.slice(axis + 1)];
  const apart = padAxis(reshape(x, [...before, extent, 1, ...after]), axis + 1, 0, step - 1);
  return slice(reshape(apart, [...before, extent * step, ...after]), axis, [0, (extent - 1) * step + 1]);
}

/** kernel_shape repeats the shape of the weight. */
function requireKernel(node: OnnxNode, kernel: readonly number[]): void {
  const stated = node.ints("kernel_shape");
  if (stated && showShape(stated) !== showShape(kernel)) {
    node.fail(`kernel_shape ${showShape(stated)} is not that of the weight, ${showShape(kernel)}`, {
      attribute: "kernel_shape",
      found: stated,
      expected: kernel,
    });
  }
}

/** Along one axis of a transposed convolution: what is cut from both ends of the full output, and its length. */
interface Cut {
  readonly stride: number;
  readonly dilation: number;
  readonly before: number;
  readonly size: number;
}

function cutsOf(node: OnnxNode, x: Value, kernel: readonly number[]): Cut[] {
  const axes = spatialAxes(node, x);
  const strides = perAxis(node, "strides", axes);
  const dilations = perAxis(node, "dilations", axes);
  const extra = perAxis(node, "output_padding", axes, 0);
  const automatic = node.choice("auto_pad", ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"], "NOTSET");
  const pads = node.ints("pads") ?? new Array<number>(2 * axes).fill(0);
  const wanted = node.ints("output_shape");
  const sizes = wanted?.slice(wanted.length - axes);
  return kernel.map((taps, axis) => {
    const [stride, dilation] = [strides[axis] as number, dilations[axis] as number];
    const full = ((x.shape[axis + 2] as number) - 1) * stride + reach(taps, dilation) + (extra[axis] as number);
    const isSame = automatic === "SAME_UPPER" || automatic === "SAME_LOWER";
    const size = sizes?.[axis] ?? (isSame ? (x.shape[axis + 2] as number) * stride : undefined);
    if (size === undefined) {
      const [before, after] = [pads[axis] as number, pads[axis + axes] as number];
      return { stride, dilation, before, size: full - before - after };
    }
    const total = Math.max(0, full - size);
    const before = automatic === "SAME_UPPER" ? Math.floor(total / 2) : Math.ceil(total / 2);
    return { stride, dilation, before, size };
  });
}

function transposedConvolution(node: OnnxNode): Value {
  const [x, weight, bias] = [node.input(0), node.input(1), node.optional(2)];
  const kernel = weight.shape.slice(2);
  if (weight.shape.length !== x.shape.length) {
    return node.fail(`its weight ${showShape(weight.shape)} does not fit ${showShape(x.shape)}`);
  }
  requireKernel(node, kernel);
  const cuts = cutsOf(node, x, kernel);
  if (cuts.some(({ size }) => !(size >= 1))) {
    node.fail(`the output would be empty: ${cuts.map(({ size }) => size).join("x")}`);
  }
  const groups = node.int("group") ?? 1;
  const y =
    cuts.length < 3
      ? asSignal(transposeImage(asImage(x), asImage(weight), cuts, groups), x)
      : transposeVolume(x, weight, cuts, groups);
  return bias ? add(y, reshape(bias, [-1, ...kernel.map(() => 1)])) : y;
}

const NO_CUT: Cut = { stride: 1, dilation: 1, before: 0, size: 1 };

function transposeImage(x: Value, weight: Value, cuts: readonly Cut[], groups: number): Value {
  const [rows, columns] = (cuts.length === 1 ? [NO_CUT, ...cuts] : cuts) as [Cut, Cut];
  const { weight: taps, dilation } = withOneDilation(weight, [rows.dilation, columns.dilation]);
  // The stride and the dilation of an axis of one element have no effect.
  const isRow = x.shape[2] === 1 && weight.shape[2] === 1;
  const sameStride = rows.stride === columns.stride || isRow;
  const spread = sameStride ? x : spaced(spaced(x, 2, rows.stride), 3, columns.stride);
  const stride = sameStride ? columns.stride : 1;
  const [, , tall, wide] = taps.shape as [number, number, number, number];
  const [height, width] = [spread.shape[2] as number, spread.shape[3] as number];
  const after = (extent: number, count: number, { before, size }: Cut) =>
    (extent - 1) * stride + reach(count, dilation) - before - size;
  // A negative padding is what the output has beyond the full one. It is 0 there.
  const [below, right] = [after(height, tall, rows), after(width, wide, columns)];
  const kept = [rows.size + Math.min(0, below), columns.size + Math.min(0, right)] as const;
  const y = convTranspose2d(spread, taps, kept, {
    stride,
    padding: [rows.before, columns.before, Math.max(0, below), Math.max(0, right)],
    dilation,
    groups,
  });
  return padAxis(padAxis(y, 2, 0, rows.size - kept[0]), 3, 0, columns.size - kept[1]);
}

/** Each tap along the depth is a transposed convolution of images; their frames are moved apart and added. */
function transposeVolume(x: Value, weight: Value, cuts: readonly Cut[], groups: number): Value {
  const [depth, ...plane] = cuts as [Cut, ...Cut[]];
  const [b, c, d, h, w] = x.shape as [number, number, number, number, number];
  const [, out, taps, tall, wide] = weight.shape as [number, number, number, number, number];
  const images = reshape(transpose(x, [0, 2, 1, 3, 4]), [b * d, c, h, w]);
  const reached = (d - 1) * depth.stride + reach(taps, depth.dilation);
  const length = Math.max(reached, depth.before + depth.size);
  const layers = Array.from({ length: taps }, (_, tap) => {
    const layer = reshape(slice(weight, 2, [tap, tap + 1]), [c, out, tall, wide]);
    const frames = spaced(asVolume(transposeImage(images, layer, plane, groups), b), 2, depth.stride);
    const start = tap * depth.dilation;
    return padAxis(frames, 2, start, length - start - (frames.shape[2] as number));
  });
  return slice(layers.reduce(add), 2, [depth.before, depth.before + depth.size]);
}

export const convolutions: Operators = {
  Conv: (node) => convolve(node, node.input(0), node.input(1), node.optional(2)),
  ConvTranspose: transposedConvolution,
};
