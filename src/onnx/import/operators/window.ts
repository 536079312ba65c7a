/** The sliding windows of convolutions and poolings over x [b, c, ...spatial]. */
import type { Value } from "../../../graph/value.js";
import { type Padding, reach } from "../../../ops/conv.js";
import { reshape } from "../../../ops/index.js";
import { showShape } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";

const AUTO_PAD = ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"] as const;

/** The windows along one spatial axis. */
export interface AxisWindow {
  /** Length of the axis. */
  readonly extent: number;
  /** Number of taps. */
  readonly kernel: number;
  readonly stride: number;
  readonly dilation: number;
  /** Padding on both sides. With ceil_mode, the padding after the axis also has what the last window reaches. */
  readonly before: number;
  readonly after: number;
  /** The padding after the axis that the node states. */
  readonly stated: number;
  /** Length of the output. */
  readonly size: number;
}

/** Number of spatial axes of x [b, c, ...spatial], from 1 to 3. */
export function spatialAxes(node: OnnxNode, { shape }: Value): number {
  const axes = shape.length - 2;
  if (axes >= 1 && axes <= 3) return axes;
  return node.fail(`expects a signal [b, c, l], an image [b, c, h, w] or a volume, found ${showShape(shape)}`);
}

/** An attribute with one number per spatial axis. */
export function perAxis(node: OnnxNode, name: string, axes: number, otherwise = 1): number[] {
  const given = node.ints(name) ?? new Array<number>(axes).fill(otherwise);
  const lowest = name === "output_padding" ? 0 : 1;
  if (given.length !== axes || given.some((value) => value < lowest || value > 2 ** 20)) {
    node.fail(`${name} ${showShape(given)} is not valid for ${axes} spatial axes`);
  }
  return given;
}

/** The windows of a node along each spatial axis of x. */
export function windowsOf(node: OnnxNode, x: Value, kernel: readonly number[]): AxisWindow[] {
  const axes = spatialAxes(node, x);
  const strides = perAxis(node, "strides", axes);
  const dilations = perAxis(node, "dilations", axes);
  const ceil = node.int("ceil_mode") === 1;
  const automatic = node.choice("auto_pad", AUTO_PAD, "NOTSET");
  const pads = node.ints("pads") ?? new Array<number>(2 * axes).fill(0);
  if (pads.length !== 2 * axes || pads.some((value) => value < 0)) {
    node.fail(`pads ${showShape(pads)} must be ${2 * axes} numbers that are not negative`);
  }
  return kernel.map((count, axis) => {
    const extent = x.shape[axis + 2] as number;
    const [stride, dilation] = [strides[axis] as number, count === 1 ? 1 : (dilations[axis] as number)];
    const taps = reach(count, dilation);
    const isStated = automatic === "NOTSET";
    let [before, after] = isStated ? [pads[axis] as number, pads[axis + axes] as number] : [0, 0];
    const stated = after;
    let size = Math.floor((extent + before + after - taps) / stride) + 1;
    if (automatic === "SAME_UPPER" || automatic === "SAME_LOWER") {
      size = Math.ceil(extent / stride);
      const total = Math.max(0, (size - 1) * stride + taps - extent);
      before = automatic === "SAME_UPPER" ? Math.floor(total / 2) : Math.ceil(total / 2);
      after = total - before;
      return { extent, kernel: count, stride, dilation, before, after, stated: after, size };
    }
    if (ceil) {
      size = Math.ceil((extent + before + after - taps) / stride) + 1;
      // A window must begin inside the image or the padding before it.
      if ((size - 1) * stride >= extent + before) size--;
      after = Math.max(0, (size - 1) * stride + taps - extent - before);
    }
    return { extent, kernel: count, stride, dilation, before, after, stated, size };
  });
}

/** x [b, c, h, w] as it is, or a signal [b, c, l] → [b, c, 1, l] */
export function asImage(x: Value): Value {
  const [b, c, length] = x.shape as [number, number, number];
  return x.shape.length === 3 ? reshape(x, [b, c, 1, length]) : x;
}

/** Drops the one row of y again if the input was a signal. */
export const asSignal = (y: Value, like: Value) =>
  like.shape.length === 3 ? reshape(y, [y.shape[0] as number, y.shape[1] as number, y.shape[3] as number]) : y;

/** A window that has no effect: that of the one row of a signal. */
const ROW: AxisWindow = { extent: 1, kernel: 1, stride: 1, dilation: 1, before: 0, after: 0, stated: 0, size: 1 };

/** Windows of a signal or an image, as those of an image. */
export const asImageWindows = (windows: readonly AxisWindow[]): readonly [AxisWindow, AxisWindow] =>
  (windows.length === 1 ? [ROW, ...windows] : windows) as unknown as readonly [AxisWindow, AxisWindow];

export const paddingOf = ([rows, columns]: readonly [AxisWindow, AxisWindow]): Padding => [
  rows.before,
  columns.before,
  rows.after,
  columns.after,
];
