/** Pooling over windows and over whole images: https://onnx.ai/onnx/operators/ */
import type { Value } from "../../../graph/value.js";
import { averagePool, constant, conv2d, filled, max, maxPool, mean, mul } from "../../../ops/index.js";
import { showShape } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import type { Operators } from "./operator.js";
import { asImage, asSignal, perAxis, windowOf } from "./window.js";

function maximumPool(node: OnnxNode): Value {
  const x = node.input(0);
  // The order in which the indices count pixels. There are none here.
  node.ignore("storage_order");
  if (node.outputs > 1) node.fail("its second output, the indices of the maxima, is not supported", { output: 1 });
  const window = windowOf(node, x, perAxis(node, "kernel_shape", x.shape.length));
  return asSignal(maxPool(asImage(x, node), window.kernel, window), x);
}

function meanPool(node: OnnxNode): Value {
  const given = node.input(0);
  const window = windowOf(node, given, perAxis(node, "kernel_shape", given.shape.length));
  const { kernel, stride, padding, size, dilation } = window;
  const includesPadding = node.int("count_include_pad") === 1;
  const x = asImage(given, node);
  const [, c, h, w] = x.shape as [number, number, number, number];
  const [factor] = kernel;
  const tiles = [kernel[1], ...stride].every((n) => n === factor) && padding.every((n) => n === 0) && dilation === 1;
  if (tiles && h % factor === 0 && w % factor === 0) return asSignal(averagePool(x, factor), given);
  if (stride[0] !== stride[1]) node.fail(`different strides per axis ${showShape(stride)} are not supported`);
  const ones = filled([c, 1, ...kernel], 1);
  const sums = conv2d(x, ones, undefined, { stride: stride[0], padding, dilation, groups: c });
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

export const pooling: Operators = {
  MaxPool: maximumPool,
  AveragePool: meanPool,
  GlobalAveragePool: (node) => mean(node.input(0), pixelAxes(node.input(0)), { keepDims: true }),
  GlobalMaxPool: (node) => max(node.input(0), pixelAxes(node.input(0)), { keepDims: true }),
};
