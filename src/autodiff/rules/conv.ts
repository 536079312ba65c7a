import type { Value } from "../../graph/value.js";
import { type ConvAttrs, conv2d, convTranspose2d } from "../../ops/conv.js";
import { matmul } from "../../ops/matmul.js";
import { concat, pad, reshape, slice, transpose } from "../../ops/movement.js";
import { sum } from "../../ops/reduce.js";
import type { OPS } from "../../ops/table.js";
import type { Rules } from "../rule.js";

/**
 * The gradient of conv2d with respect to its weight: for each kernel element, one product of dy [o, b·h'·w'] with the
 * shifted input [c, b·h'·w']. This is twice as fast as the convolution of the transposed operands
 * (docs/architecture.md).
 */
function weightGradient(
  x: Value,
  dy: Value,
  [, , kh, kw]: readonly number[],
  { stride, padding, groups, dilation }: ConvAttrs,
): Value {
  const [, c] = x.shape as [number, number];
  const [, o, height, width] = dy.shape as [number, number, number, number];
  const [top, left, bottom, right] = padding;
  const channelsFirst = pad(transpose(x, [1, 0, 2, 3]), [
    [0, 0],
    [0, 0],
    [top, bottom],
    [left, right],
  ]);
  const upstream = reshape(transpose(dy, [1, 0, 2, 3]), [groups, o / groups, -1]);
  const taps: Value[] = [];
  for (let i = 0; i < (kh as number); i++) {
    for (let j = 0; j < (kw as number); j++) {
      const [row, column] = [i * dilation, j * dilation];
      const rows = slice(channelsFirst, 2, [row, row + (height - 1) * stride + 1], { step: stride });
      const shifted = slice(rows, 3, [column, column + (width - 1) * stride + 1], { step: stride });
      const flat = reshape(shifted, [groups, c / groups, -1]);
      taps.push(
        groups === 1
          ? matmul(reshape(upstream, [o, -1]), reshape(flat, [c, -1]), { transposeB: true })
          : reshape(matmul(upstream, flat, { transposeB: true }), [o, c / groups]),
      );
    }
  }
  const stacked = concat(
    taps.map((tap) => reshape(tap, [1, o, c / groups])),
    0,
  );
  return reshape(transpose(stacked, [1, 2, 0]), [o, c / groups, kh as number, kw as number]);
}

const imageSize = (x: Value) => [x.shape[2], x.shape[3]] as [number, number];

export const convRules: Rules<Pick<typeof OPS, "conv2d" | "convTranspose2d">> = {
  conv2d: (dy, { inputs: [x, weight], attrs }) => [
    () => convTranspose2d(dy, weight, imageSize(x), attrs),
    () => weightGradient(x, dy, weight.shape, attrs),
    () => sum(dy, [0, 2, 3]),
  ],
  convTranspose2d: (dy, { inputs: [x, weight], attrs }) => [
    () => conv2d(dy, weight, undefined, attrs),
    () => weightGradient(dy, x, weight.shape, attrs),
  ],
};
