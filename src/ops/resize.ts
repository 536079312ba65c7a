/** Resizes images. Each axis is one product with a constant matrix, so the gradient is exact and needs no rule. */
import type { Value } from "../graph/value.js";
import { matmul } from "./matmul.js";
import { constant } from "./source.js";

export interface ResizeOptions {
  /** Widen the filter when downscaling, as Pillow and torchvision do. AlignProp's reference code does not. */
  readonly antialias?: boolean;
  readonly alignCorners?: boolean;
}

/** Bilinear resize of x [b, c, h, w] → [b, c, ...size], with `size` [height, width], as torch's `interpolate`. */
export function resizeBilinear(
  x: Value,
  size: readonly [number, number],
  { antialias = false, alignCorners = false }: ResizeOptions = {},
): Value {
  return resized(x, size, { kernel: LINEAR, position: alignCorners ? alignedCorners : pixelCenters, antialias });
}

/** Bicubic resize of x [b, c, h, w] (Keys 1981). As in torch, a = -0.75, or -0.5 with antialiasing. */
export function resizeBicubic(
  x: Value,
  size: readonly [number, number],
  { antialias = false }: Pick<ResizeOptions, "antialias"> = {},
): Value {
  return resized(x, size, { kernel: CUBIC(antialias ? -0.5 : -0.75), position: pixelCenters, antialias });
}

/** Nearest-neighbor resize of x [b, c, h, w], as torch's `interpolate`. */
export function resizeNearest(x: Value, size: readonly [number, number]): Value {
  return resized(x, size, { kernel: LINEAR, position: (i, from, to) => Math.floor((i * from) / to) });
}

/** The position of output pixel i of `to` among the input pixels 0 … from - 1. */
type Position = (i: number, from: number, to: number) => number;
/** Aligns the outer edges of the images; the samples are the centers of the pixels. */
const pixelCenters: Position = (i, from, to) => ((i + 0.5) * from) / to - 0.5;
/** Aligns the centers of the corner pixels. */
const alignedCorners: Position = (i, from, to) => (to > 1 ? (i * (from - 1)) / (to - 1) : 0);

function resized(
  x: Value,
  size: readonly [number, number],
  { kernel, position, antialias = false }: { kernel: Kernel; position: Position; antialias?: boolean },
): Value {
  const along = (axis: 2 | 3): Resampling | undefined => {
    const [from, to] = [x.shape[axis] as number, size[axis - 2] as number];
    if (from === to) return undefined;
    const stretch = antialias ? Math.max(1, from / to) : 1;
    return {
      from,
      to,
      kernel,
      position: (i) => position(i, from, to),
      stretch,
      outside: antialias ? "exclude" : "clamp",
    };
  };
  return resample(x, along(2), along(3));
}

/** An interpolation kernel. Its weight is 0 at distances of `support` and more. */
export interface Kernel {
  readonly support: number;
  readonly weight: (distance: number) => number;
}

export const LINEAR: Kernel = { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) };

/** The cubic convolution kernel of Keys (1981, equation 4), with the free coefficient a. */
export const CUBIC = (a: number): Kernel => ({
  support: 2,
  weight: (distance) => {
    const x = Math.abs(distance);
    if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
  },
});

/** Resampling of one axis. */
export interface Resampling {
  readonly from: number;
  readonly to: number;
  readonly kernel: Kernel;
  /** The position of output element i among the input elements 0 … from - 1. */
  readonly position: (i: number) => number;
  /** Factor by which the kernel is widened: the downscaling factor with antialiasing, otherwise 1. */
  readonly stretch?: number;
  /** Beyond the edge, either repeat the edge element (`clamp`) or leave elements out (`exclude`). */
  readonly outside?: "clamp" | "exclude";
}

/** Resamples the rows and columns of x [..., h, w]. Undefined leaves an axis unchanged. */
export function resample(x: Value, rows: Resampling | undefined, columns: Resampling | undefined): Value {
  const tall = rows ? matmul(interpolation(rows), x) : x;
  return columns ? matmul(tall, interpolation(columns), { transposeB: true }) : tall;
}

/** The matrix [to, from] whose row i holds the weights of the input elements in output element i. */
function interpolation({ from, to, kernel, position, stretch = 1, outside = "clamp" }: Resampling): Value {
  const weights = new Float64Array(to * from);
  const support = kernel.support * stretch;
  for (let i = 0; i < to; i++) {
    const row = weights.subarray(i * from, (i + 1) * from);
    const center = position(i);
    let total = 0;
    for (let j = Math.ceil(center - support); j <= center + support; j++) {
      if (outside === "exclude" && (j < 0 || j >= from)) continue;
      const at = Math.min(Math.max(j, 0), from - 1);
      const weight = kernel.weight((j - center) / stretch);
      row[at] = (row[at] as number) + weight;
      total += weight;
    }
    for (let j = 0; j < from; j++) row[j] = (row[j] as number) / total;
  }
  return constant(weights, [to, from]);
}

/** The matrix [to, from] of torch's bicubic `interpolate`, without aligned corners and antialiasing. */
export function bicubicMatrix(from: number, to: number): Value {
  return interpolation({ from, to, kernel: CUBIC(-0.75), position: (i) => pixelCenters(i, from, to) });
}
