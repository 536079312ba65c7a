import type { Value } from "../graph/value.js";
import { matmul } from "./matmul.js";
import { constant } from "./source.js";

interface ResizeOptions {
  /** Widen the filter when shrinking, as Pillow and torchvision do; the reference does not. */
  readonly antialias?: boolean;
  readonly alignCorners?: boolean;
}

/**
 * Bilinear resize of x [b, c, h, w] → [b, c, height, width] with the sample positions of torch's `interpolate`. Each axis is
 * one product with a constant matrix, so the gradient is exact and needs no rule of its own.
 */
export function resizeBilinear(
  x: Value,
  size: readonly [number, number],
  { antialias = false, alignCorners = false }: ResizeOptions = {},
): Value {
  return resized(x, size, LINEAR, alignCorners ? cornersAligned : pixelCentres, antialias);
}

/** Bicubic resize of x [b, c, h, w] (Keys 1981), with the coefficient that torch takes: -0.75, and -0.5 with antialiasing. */
export function resizeBicubic(
  x: Value,
  size: readonly [number, number],
  { antialias = false }: Pick<ResizeOptions, "antialias"> = {},
): Value {
  return resized(x, size, CUBIC(antialias ? -0.5 : -0.75), pixelCentres, antialias);
}

/** Nearest neighbour, as torch's `interpolate` picks it. */
export function resizeNearest(x: Value, size: readonly [number, number]): Value {
  return resized(x, size, LINEAR, (i, from, to) => Math.floor((i * from) / to), false);
}

type Positions = (i: number, from: number, to: number) => number;
const pixelCentres: Positions = (i, from, to) => ((i + 0.5) * from) / to - 0.5;
const cornersAligned: Positions = (i, from, to) => (to > 1 ? (i * (from - 1)) / (to - 1) : 0);

function resized(
  x: Value,
  size: readonly [number, number],
  kernel: Kernel,
  position: Positions,
  antialias: boolean,
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

/** An interpolation kernel, 0 from `support` on. */
export interface Kernel {
  readonly support: number;
  readonly weight: (distance: number) => number;
}

export const LINEAR: Kernel = { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) };

/** Keys's cubic convolution (1981), equation 4, with a free coefficient. */
export const CUBIC = (a: number): Kernel => ({
  support: 2,
  weight: (distance) => {
    const x = Math.abs(distance);
    if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
  },
});

/** How one axis is resampled. */
export interface Resampling {
  readonly from: number;
  readonly to: number;
  readonly kernel: Kernel;
  /** Where output position i lies among the input positions 0 … from - 1. */
  readonly position: (i: number) => number;
  /** How much wider the kernel is than between neighbours: the scale, to antialias. */
  readonly stretch?: number;
  /** What the kernel finds beyond the edge: the edge's value again, or nothing. */
  readonly outside?: "clamp" | "exclude";
}

/** x [..., h, w] with its rows and its columns resampled; undefined leaves an axis as it is. */
export function resample(x: Value, rows: Resampling | undefined, columns: Resampling | undefined): Value {
  const tall = rows ? matmul(interpolation(rows), x) : x;
  return columns ? matmul(tall, interpolation(columns), { transposeB: true }) : tall;
}

/** [to, from]: row i holds the weights that input positions have in output position i. */
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

/** [to, from]: the weights of torch's bicubic `interpolate` without aligned corners and antialiasing. */
export function bicubicMatrix(from: number, to: number): Value {
  return interpolation({ from, to, kernel: CUBIC(-0.75), position: (i) => pixelCentres(i, from, to) });
}
