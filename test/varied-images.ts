/** Images of many kinds, the same each time: from one color to noise, smooth and sharp, dull and colorful. */
import { Rng } from "../src/tensor/rng.js";

/** Returns [count, 3, size, size] in 0 … 1. */
export function variedImages(count: number, size: number, seed = 1): Float32Array {
  const plane = size * size;
  const all = new Float32Array(count * 3 * plane);
  for (let i = 0; i < count; i++) {
    const rng = new Rng(seed, i);
    const kind = KINDS[i % KINDS.length] as Kind;
    const shade = kind(rng, size);
    const colour = [0, 1, 2].map(() => [rng.uniform(), rng.uniform()] as const);
    const grain = rng.uniform() < 0.4 ? 0.12 * rng.uniform() ** 2 : 0;
    for (let channel = 0; channel < 3; channel++) {
      const [from, to] = colour[channel] as readonly [number, number];
      for (let at = 0; at < plane; at++) {
        const value = from + (to - from) * shade(at % size, Math.floor(at / size)) + grain * rng.normal();
        // Rounded to eight bits, as an encoder's input is.
        all[(i * 3 + channel) * plane + at] = Math.round(255 * Math.min(1, Math.max(0, value))) / 255;
      }
    }
  }
  return all;
}

/** Returns a function from a pixel to its value, about 0 … 1. */
type Kind = (rng: Rng, size: number) => (x: number, y: number) => number;

const KINDS: readonly Kind[] = [
  // One color, or a gradient.
  (rng) => {
    const slope = rng.uniform() < 0.3 ? 0 : rng.uniform() / 64;
    return (x, y) => slope * (x + 0.5 * y);
  },
  // Waves of any length.
  (rng) => {
    const [a, b] = [rng.uniform() ** 2 * 1.5, rng.uniform() ** 2 * 1.5];
    return (x, y) => 0.5 + 0.5 * Math.sin(a * x + b * y);
  },
  // Checks and stripes with hard edges.
  (rng) => {
    const [width, height] = [rng.integer(1, 24), rng.integer(1, 24)];
    return (x, y) => (Math.floor(x / width) + Math.floor(y / height)) % 2;
  },
  // Discs on a background, as in a drawing.
  (rng, size) => {
    const discs = Array.from({ length: rng.integer(1, 12) }, () => ({
      x: rng.uniform() * size,
      y: rng.uniform() * size,
      radius: (0.05 + 0.3 * rng.uniform()) * size,
      shade: rng.uniform(),
    }));
    return (x, y) => discs.findLast((disc) => Math.hypot(x - disc.x, y - disc.y) < disc.radius)?.shade ?? 0;
  },
  // Clouds: noise on a coarse grid, interpolated bilinearly.
  (rng, size) => {
    const cells = rng.integer(2, size);
    const grid = Array.from({ length: (cells + 2) ** 2 }, () => rng.uniform());
    const at = (x: number, y: number) => grid[y * (cells + 2) + x] as number;
    return (x, y) => {
      const [u, v] = [(x / size) * cells, (y / size) * cells];
      const [i, j] = [Math.floor(u), Math.floor(v)];
      const [s, t] = [u - i, v - j];
      return (1 - t) * ((1 - s) * at(i, j) + s * at(i + 1, j)) + t * ((1 - s) * at(i, j + 1) + s * at(i + 1, j + 1));
    };
  },
];

/** Spearman's rank correlation; equal values share the mean of their ranks. */
export function spearman(a: readonly number[], b: readonly number[]): number {
  const [x, y] = [ranks(a), ranks(b)];
  const middle = (a.length - 1) / 2;
  let [xy, xx, yy] = [0, 0, 0];
  for (const [i, rank] of x.entries()) {
    const [dx, dy] = [rank - middle, (y[i] as number) - middle];
    xy += dx * dy;
    xx += dx * dx;
    yy += dy * dy;
  }
  return xy / Math.sqrt(xx * yy);
}

function ranks(values: readonly number[]): number[] {
  const order = [...values.keys()].sort((i, j) => (values[i] as number) - (values[j] as number));
  const found = new Array<number>(values.length);
  for (let start = 0; start < order.length; ) {
    let end = start;
    while (end < order.length && values[order[end] as number] === values[order[start] as number]) end++;
    for (let at = start; at < end; at++) found[order[at] as number] = (start + end - 1) / 2;
    start = end;
  }
  return found;
}
