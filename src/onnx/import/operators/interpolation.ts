/** Reading images between their pixels. */
import type { Value } from "../../../graph/value.js";
import {
  add,
  cast,
  clip,
  constant,
  equal,
  floor,
  gather,
  maximum,
  mul,
  remainder,
  reshape,
  round,
  sub,
  transpose,
  where,
} from "../../../ops/index.js";
import { stridesOf } from "../../../tensor/shape.js";

/** x [b, c, ...spatial], a row per pixel. */
export interface Pixels {
  /** [b · pixels, c] */
  readonly rows: Value;
  readonly spatial: readonly number[];
}

export function pixelsOf(x: Value): Pixels {
  const [, c, ...spatial] = x.shape as [number, number, ...number[]];
  const order = [0, ...spatial.map((_, i) => i + 2), 1];
  return { rows: reshape(transpose(x, order), [-1, c]), spatial };
}

/** A tap of an interpolation: the position along each axis, whole numbers in floating point, and its weight. */
interface Tap {
  readonly at: readonly Value[];
  readonly weight: Value | undefined;
}

export type Padding = "zeros" | "border" | "reflection";

/** The taps and weights along one axis, for positions of any shape. */
export type Interpolation = (position: Value) => readonly (readonly [at: Value, weight: Value | undefined])[];

export const nearest: Interpolation = (position) => [[round(position), undefined]];

export const linear: Interpolation = (position) => {
  const low = floor(position);
  const share = sub(position, low);
  return [
    [low, sub(1, share)],
    [add(low, 1), share],
  ];
};

/** Cubic convolution (Keys 1981, equation 4) with a = -0.75, as in torch.grid_sample. */
export const cubic: Interpolation = (position) => {
  const a = -0.75;
  const low = floor(position);
  const share = sub(position, low);
  // ((a + 2) x - (a + 3)) x² + 1 for x < 1, and ((a x - 5 a) x + 8 a) x - 4 a for x from 1 to 2
  const near = (x: Value) => add(mul(sub(mul(x, a + 2), a + 3), mul(x, x)), 1);
  const far = (x: Value) => sub(mul(add(mul(sub(mul(x, a), 5 * a), x), 8 * a), x), 4 * a);
  return [
    [sub(low, 1), far(add(share, 1))],
    [low, near(share)],
    [add(low, 1), near(sub(1, share))],
    [add(low, 2), far(sub(2, share))],
  ];
};

const product = (a: Value | undefined, b: Value | undefined) => (a && b ? mul(a, b) : (a ?? b));

/** All combinations of the taps of each axis. */
export const tapsOf = (positions: readonly Value[], interpolation: Interpolation): Tap[] =>
  positions.reduce<Tap[]>(
    (taps, position) =>
      taps.flatMap(({ at, weight }) =>
        interpolation(position).map(([one, share]) => ({ at: [...at, one], weight: product(weight, share) })),
      ),
    [{ at: [], weight: undefined }],
  );

/** The pixels of each tap [n, points, c], weighted. `images` [n, 1] is the first row of the image of each point. */
export function readTaps(
  { rows, spatial }: Pixels,
  taps: readonly Tap[],
  { images, padding, alignCorners }: { images: Value; padding: Padding; alignCorners: boolean },
): Value[] {
  const strides = stridesOf(spatial);
  return taps.map(({ at, weight }) => {
    let index = images;
    let inside = weight;
    for (const [axis, position] of at.entries()) {
      const last = (spatial[axis] as number) - 1;
      const reflected = padding === "reflection" ? reflect(position, last, alignCorners) : position;
      const within = clip(reflected, 0, last);
      if (padding === "zeros") inside = product(inside, cast(equal(within, position), "float32"));
      index = add(index, mul(within, strides[axis] as number));
    }
    const read = gather(rows, cast(index, "int64"));
    return inside ? mul(read, reshape(inside, [...inside.shape, 1])) : read;
  });
}

/** Mirrors positions at the centers of the corner pixels, or at their outer edges. */
function reflect(position: Value, last: number, alignCorners: boolean): Value {
  const [low, high] = alignCorners ? [0, last] : [-0.5, last + 0.5];
  const span = high - low;
  if (span === 0) return mul(position, 0);
  const distance = maximum(sub(position, low), sub(low, position));
  const rest = remainder(distance, span);
  const isTurned = equal(remainder(floor(mul(distance, 1 / span)), 2), 1);
  return where(isTurned, sub(high, rest), add(rest, low));
}

/** The first row of each image, as [b, 1] */
export const imageRows = (b: number, pixels: number) =>
  constant(
    Array.from({ length: b }, (_, i) => i * pixels),
    [b, 1],
  );
