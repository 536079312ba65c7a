/**
 * The sliding window of a convolution or a pooling over images [b, c, h, w] and signals [b, c, l]. A signal is computed
 * as an image with one row.
 */
import type { Value } from "../../../graph/value.js";
import { type Padding, reach } from "../../../ops/conv.js";
import { reshape } from "../../../ops/index.js";
import { showShape } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";

const AUTO_PAD = ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"] as const;
export type Pair = readonly [number, number];

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
export function asImage(x: Value, node: OnnxNode): Value {
  if (x.shape.length === 4) return x;
  const [b, c, length] = x.shape as [number, number, number];
  return x.shape.length === 3
    ? reshape(x, [b, c, 1, length])
    : node.fail(`expects an image [b, c, h, w] or a signal [b, c, l], found ${showShape(x.shape)}`);
}

/** Drops the one row of y again if the input was a signal. */
export const asSignal = (y: Value, like: Value) =>
  like.shape.length === 3 ? reshape(y, [y.shape[0] as number, y.shape[1] as number, y.shape[3] as number]) : y;

/** An attribute with one number per spatial axis. For a signal, the axis of its one row gets the default. */
export function perAxis(node: OnnxNode, name: string, rank: number, otherwise = 1): Pair {
  if (rank !== 3 && rank !== 4) node.fail(`expects an image [b, c, h, w] or a signal [b, c, l], found ${rank} axes`);
  const given = node.ints(name) ?? new Array<number>(rank - 2).fill(otherwise);
  const pair = rank === 3 ? [otherwise, ...given] : given;
  if (pair.length !== 2 || pair.some((value) => value < (name === "output_padding" ? 0 : 1) || value > 2 ** 20)) {
    node.fail(`${name} ${showShape(given)} is not valid for ${rank - 2} spatial axes`);
  }
  return pair as unknown as Pair;
}

export function windowOf(node: OnnxNode, x: Value, kernel: Pair): Window {
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
