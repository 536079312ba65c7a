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
  [height, width]: readonly [number, number],
  options: ResizeOptions = {},
): Value {
  const [, , h, w] = x.shape as [number, number, number, number];
  const rows = h === height ? x : matmul(interpolation(h, height, options), x);
  return w === width ? rows : matmul(rows, interpolation(w, width, options), { transposeB: true });
}

/** [to, from]: row i holds the weights that input positions have in output position i. */
function interpolation(from: number, to: number, { antialias = false, alignCorners = false }: ResizeOptions): Value {
  const weights = new Float64Array(to * from);
  const ratio = alignCorners ? (to > 1 ? (from - 1) / (to - 1) : 0) : from / to;
  const support = antialias ? Math.max(ratio, 1) : 1;
  for (let i = 0; i < to; i++) {
    const center = alignCorners ? i * ratio : (i + 0.5) * ratio - 0.5;
    const clamped = antialias ? center : Math.min(Math.max(center, 0), from - 1);
    let total = 0;
    for (let j = 0; j < from; j++) {
      const weight = Math.max(0, 1 - Math.abs(j - clamped) / support);
      weights[i * from + j] = weight;
      total += weight;
    }
    for (let j = 0; j < from; j++) weights[i * from + j] = (weights[i * from + j] as number) / total;
  }
  return constant(weights, [to, from]);
}

/**
 * [to, from]: row i holds the weights that input positions have in output position i of torch's bicubic `interpolate`
 * without aligned corners and antialiasing (Keys 1981 with a = -0.75), where positions beyond the edge are the edge's.
 */
export function bicubicMatrix(from: number, to: number): Value {
  const a = -0.75;
  const cubic = (distance: number): number => {
    const d = Math.abs(distance);
    if (d <= 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
  };
  const weights = new Float64Array(to * from);
  for (let i = 0; i < to; i++) {
    const center = ((i + 0.5) * from) / to - 0.5;
    for (let j = Math.floor(center) - 1; j <= Math.floor(center) + 2; j++) {
      const at = i * from + Math.min(Math.max(j, 0), from - 1);
      weights[at] = (weights[at] as number) + cubic(j - center);
    }
  }
  return constant(weights, [to, from]);
}
