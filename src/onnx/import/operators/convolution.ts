/** Conv and ConvTranspose: https://onnx.ai/onnx/operators/ */
import type { Value } from "../../../graph/value.js";
import { type Padding, reach } from "../../../ops/conv.js";
import { add, conv2d, convTranspose2d, reshape, slice } from "../../../ops/index.js";
import { showShape } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import type { Operators } from "./operator.js";
import { asImage, asSignal, type Pair, perAxis, windowOf } from "./window.js";

function convolution(node: OnnxNode): Value {
  const [given, bias] = [node.input(0), node.optional(2)];
  const [x, weight] = [asImage(given, node), asImage(node.input(1), node)];
  const kernel = weight.shape.slice(2) as unknown as Pair;
  requireKernel(node, kernel);
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

/** kernel_shape repeats the shape of the weight. */
function requireKernel(node: OnnxNode, kernel: readonly number[]): void {
  const stated = node.ints("kernel_shape");
  const axes = kernel.slice(kernel.length - (stated?.length ?? 0));
  if (stated?.some((extent, axis) => extent !== axes[axis])) {
    node.fail(`kernel_shape ${showShape(stated)} is not that of the weight, ${showShape(axes)}`, {
      attribute: "kernel_shape",
      found: stated,
      expected: axes,
    });
  }
}

function transposedConvolution(node: OnnxNode): Value {
  const [given, bias] = [node.input(0), node.optional(2)];
  const [x, weight] = [asImage(given, node), asImage(node.input(1), node)];
  const rank = given.shape.length;
  requireKernel(node, weight.shape.slice(2));
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

export const convolutions: Operators = {
  Conv: convolution,
  ConvTranspose: transposedConvolution,
};
