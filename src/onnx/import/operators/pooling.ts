/** Pooling over windows and over whole images: https://onnx.ai/onnx/operators/ */
import type { Value } from "../../../graph/value.js";
import {
  abs,
  add,
  averagePool,
  constant,
  conv2d,
  div,
  filled,
  matmul,
  max,
  maxPool,
  mean,
  mul,
  pad,
  pow,
  reshape,
  scatterElements,
  slice,
  sub,
  sum,
} from "../../../ops/index.js";
import { showShape, sizeOf } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import { fromFront, MAX_ELEMENTS, toFront } from "./indexing.js";
import { sqrtOrZero } from "./norm.js";
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

const kernelOf = (node: OnnxNode, x: Value) => perAxis(node, "kernel_shape", spatialAxes(node, x));

/** Windows whose taps can be listed. */
function listed(node: OnnxNode, windows: readonly AxisWindow[]): readonly AxisWindow[] {
  const tooMany = windows.find(({ size, kernel }) => !(size >= 1 && size * kernel <= MAX_ELEMENTS));
  return tooMany ? node.fail(`its ${tooMany.size} windows of ${tooMany.kernel} taps are not supported`) : windows;
}

function maximumPool(node: OnnxNode): Value[] {
  const x = node.input(0);
  const windows = windowsOf(node, x, kernelOf(node, x));
  const columnsFirst = node.int("storage_order") === 1;
  if (windows.length === 3 || windows[0]?.dilation !== windows.at(-1)?.dilation) {
    if (node.outputs > 1) node.fail("the indices of its maxima are only supported for images", { output: 1 });
    // A maximum over a box is one along each axis in turn.
    return [windows.reduce((y, window, i) => maximumAlong(y, i + 2, window), x)];
  }
  const pair = asImageWindows(windows);
  const [rows, columns] = pair;
  // The dilation of an axis with one tap has no effect.
  const dilation = rows.kernel === 1 ? columns.dilation : rows.dilation;
  const y = maxPool(asImage(x), [rows.kernel, columns.kernel], {
    stride: [rows.stride, columns.stride],
    padding: paddingOf(pair),
    dilation,
  });
  const values = asSignal(y, x);
  if (node.outputs < 2) return [values];
  const indices = y.node.outputs[1] as Value;
  if (!columnsFirst) return [values, asSignal(indices, x)];
  const [h, w] = [rows.extent, columns.extent];
  // The offset within an image counts down the columns.
  const plane = div(indices, h * w);
  const inside = sub(indices, mul(plane, h * w));
  const row = div(inside, w);
  const column = sub(inside, mul(row, w));
  return [values, asSignal(add(mul(plane, h * w), add(mul(column, h), row)), x)];
}

function maximumAlong(x: Value, axis: number, { kernel, stride, dilation, before, after, size }: AxisWindow): Value {
  if (kernel === 1 && stride === 1) return x;
  const front = toFront(x, axis);
  const [extent] = front.shape as [number];
  const columns = reshape(front, [1, 1, extent, -1]);
  const y = maxPool(columns, [kernel, 1], { stride: [stride, 1], padding: [before, 0, after, 0], dilation });
  return fromFront(reshape(y, [size, ...front.shape.slice(1)]), axis);
}

/** The positions that each window of an axis covers. */
const tapsOf = ({ size, stride, before, kernel, dilation }: AxisWindow): number[][] =>
  Array.from({ length: size }, (_, i) =>
    Array.from({ length: kernel }, (_, tap) => i * stride - before + tap * dilation),
  );

/** The sum over each window, one product with a matrix of ones and zeros per axis. */
function windowSums(node: OnnxNode, x: Value, windows: readonly AxisWindow[]): Value {
  return windows.reduce((y, window, i) => {
    const { size, extent } = window;
    if (size * extent > MAX_ELEMENTS) node.fail(`pooling ${extent} to ${size} pixels takes too much memory`);
    const ones = new Float64Array(size * extent);
    for (const [row, taps] of tapsOf(window).entries()) {
      for (const at of taps) if (at >= 0 && at < extent) ones[row * extent + at] = 1;
    }
    const front = toFront(y, i + 2);
    const sums = matmul(constant(ones, [size, extent]), reshape(front, [extent, -1]));
    return fromFront(reshape(sums, [size, ...front.shape.slice(1)]), i + 2);
  }, x);
}

/** AveragePool of `given` with the attributes of a node. */
export function averageOf(node: OnnxNode, given: Value): Value {
  const windows = listed(node, windowsOf(node, given, kernelOf(node, given)));
  const includesPadding = node.int("count_include_pad") === 1;
  const [first] = windows as [AxisWindow];
  const isTiled = windows.every(
    ({ kernel, stride, dilation, before, after, extent }) =>
      kernel === first.kernel && stride === kernel && dilation === 1 && before + after === 0 && extent % kernel === 0,
  );
  if (windows.length === 2 && isTiled) return averagePool(given, first.kernel);
  const counts = windows.map((window) => {
    // The extra padding of ceil_mode is never counted.
    const [low, high] = includesPadding ? [-window.before, window.extent + window.stated] : [0, window.extent];
    return tapsOf(window).map((taps) => taps.filter((position) => position >= low && position < high).length);
  });
  const weights = counts.reduce<number[]>((all, axis) => all.flatMap((a) => axis.map((b) => a * b)), [1]);
  const sums = sumsOf(node, given, windows);
  return mul(
    sums,
    constant(
      weights.map((count) => 1 / count),
      windows.map(({ size }) => size),
    ),
  );
}

/** The sum over each window: of images with equal strides a convolution, which is faster. */
function sumsOf(node: OnnxNode, x: Value, windows: readonly AxisWindow[]): Value {
  if (windows.length === 3) return windowSums(node, x, windows);
  const pair = asImageWindows(windows);
  const [rows, columns] = pair;
  const dilation = rows.kernel === 1 ? columns.dilation : rows.dilation;
  const fits = rows.stride === columns.stride && (columns.kernel === 1 || columns.dilation === dilation);
  if (!fits) return windowSums(node, x, windows);
  const channels = x.shape[1] as number;
  const ones = filled([channels, 1, rows.kernel, columns.kernel], 1);
  const options = { stride: rows.stride, padding: paddingOf(pair), dilation, groups: channels };
  return asSignal(conv2d(asImage(x), ones, undefined, options), x);
}

/** (Σ |x|ᵖ)^(1/p) */
function norm(node: OnnxNode, x: Value, total: (powers: Value) => Value): Value {
  const p = node.int("p") ?? 2;
  if (p === 1) return total(abs(x));
  if (p === 2) return sqrtOrZero(total(mul(x, x)));
  return pow(total(pow(abs(x), p)), 1 / p);
}

/** Puts the values of MaxPool back where they came from; elsewhere is 0. */
function maximumUnpool(node: OnnxNode): Value {
  const [x, indices] = [node.input(0), node.input(1)];
  const axes = spatialAxes(node, x);
  const kernel = perAxis(node, "kernel_shape", axes);
  const strides = perAxis(node, "strides", axes);
  const pads = node.ints("pads") ?? new Array<number>(2 * axes).fill(0);
  const inferred = kernel.map(
    (taps, axis) =>
      ((x.shape[axis + 2] as number) - 1) * (strides[axis] as number) +
      taps -
      (pads[axis] as number) -
      (pads[axis + axes] as number),
  );
  const shape = [...x.shape.slice(0, 2), ...inferred];
  const placed = reshape(scatterElements(reshape(indices, [-1]), reshape(x, [-1]), [sizeOf(shape)], 0), shape);
  const wanted = node.integers(2, "output_shape") ?? shape;
  if (wanted.length !== shape.length) node.fail(`output_shape ${showShape(wanted)} does not fit ${showShape(shape)}`);
  const growth = shape.map((extent, axis): [number, number] => [0, Math.max(0, (wanted[axis] as number) - extent)]);
  const grown = growth.some(([, more]) => more > 0) ? pad(placed, growth) : placed;
  return wanted.reduce((y, extent, axis) => slice(y, axis, [0, extent]), grown);
}

const pixelAxes = ({ shape }: Value) => shape.map((_, axis) => axis).slice(2);

export const pooling: Operators = {
  MaxPool: maximumPool,
  MaxUnpool: maximumUnpool,
  AveragePool: (node) => averageOf(node, node.input(0)),
  LpPool: (node) => {
    const x = node.input(0);
    const windows = listed(node, windowsOf(node, x, kernelOf(node, x)));
    return norm(node, x, (powers) => windowSums(node, powers, windows));
  },
  GlobalAveragePool: (node) => mean(node.input(0), pixelAxes(node.input(0)), { keepDims: true }),
  GlobalMaxPool: (node) => max(node.input(0), pixelAxes(node.input(0)), { keepDims: true }),
  GlobalLpPool: (node) => {
    const x = node.input(0);
    return norm(node, x, (powers) => sum(powers, pixelAxes(x), { keepDims: true }));
  },
};
