/** Operators that read images between their pixels: https://onnx.ai/onnx/operators/onnx__GridSample.html */
import type { Value } from "../../../graph/value.js";
import {
  add,
  cast,
  clip,
  concat,
  constant,
  equal,
  floor,
  gather,
  greater,
  less,
  matmul,
  max,
  maximum,
  mean,
  mul,
  remainder,
  reshape,
  round,
  slice,
  sub,
  transpose,
  where,
} from "../../../ops/index.js";
import { showShape, sizeOf, stridesOf } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import { MAX_ELEMENTS } from "./indexing.js";
import type { Operators } from "./operator.js";

/** x [b, c, ...spatial], a row per pixel. */
interface Pixels {
  /** [b · pixels, c] */
  readonly rows: Value;
  readonly spatial: readonly number[];
}

function pixelsOf(x: Value): Pixels {
  const [, c, ...spatial] = x.shape as [number, number, ...number[]];
  const order = [0, ...spatial.map((_, i) => i + 2), 1];
  return { rows: reshape(transpose(x, order), [-1, c]), spatial };
}

/** A tap of an interpolation: the position along each axis, whole numbers in floating point, and its weight. */
interface Tap {
  readonly at: readonly Value[];
  readonly weight: Value | undefined;
}

type Padding = "zeros" | "border" | "reflection";

/** The taps and weights along one axis, for positions of any shape. */
type Interpolation = (position: Value) => readonly (readonly [at: Value, weight: Value | undefined])[];

const nearest: Interpolation = (position) => [[round(position), undefined]];

const linear: Interpolation = (position) => {
  const low = floor(position);
  const share = sub(position, low);
  return [
    [low, sub(1, share)],
    [add(low, 1), share],
  ];
};

/** Cubic convolution (Keys 1981, equation 4) with a = -0.75, as in torch.grid_sample. */
const cubic: Interpolation = (position) => {
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
const tapsOf = (positions: readonly Value[], interpolation: Interpolation): Tap[] =>
  positions.reduce<Tap[]>(
    (taps, position) =>
      taps.flatMap(({ at, weight }) =>
        interpolation(position).map(([one, share]) => ({ at: [...at, one], weight: product(weight, share) })),
      ),
    [{ at: [], weight: undefined }],
  );

/** The pixels of each tap [n, points, c], weighted. `images` [n, 1] is the first row of the image of each point. */
function readTaps(
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

const MODES = ["bilinear", "nearest", "bicubic", "linear", "cubic"] as const;

/** x [b, c, ...spatial], grid [b, ...size, d] with positions in -1 … 1, the last axis first → [b, c, ...size] */
function gridSample(node: OnnxNode): Value {
  const x = node.ranked(0, 3, 4, 5);
  const grid = node.ranked(1, x.shape.length);
  const mode = node.choice("mode", MODES, "linear");
  const padding = node.choice("padding_mode", ["zeros", "border", "reflection"], "zeros");
  const alignCorners = node.int("align_corners") === 1;
  const [b, c] = x.shape as [number, number];
  const pixels = pixelsOf(x);
  const axes = pixels.spatial.length;
  const size = grid.shape.slice(1, -1);
  if (grid.shape[0] !== b || grid.shape.at(-1) !== axes || axes < 1) {
    node.fail(`its grid ${showShape(grid.shape)} does not fit ${showShape(x.shape)}`);
  }
  const points = sizeOf(size);
  const flat = reshape(grid, [b, points, axes]);
  const positions = pixels.spatial.map((extent, axis) => {
    const share = reshape(slice(flat, 2, [axes - 1 - axis, axes - axis]), [b, points]);
    return alignCorners ? mul(add(share, 1), (extent - 1) / 2) : sub(mul(add(share, 1), extent / 2), 0.5);
  });
  const interpolation = mode === "nearest" ? nearest : mode.endsWith("cubic") ? cubic : linear;
  const images = imageRows(b, sizeOf(pixels.spatial));
  const read = readTaps(pixels, tapsOf(positions, interpolation), { images, padding, alignCorners });
  return reshape(transpose(read.reduce(add), [0, 2, 1]), [b, c, ...size]);
}

/** The first row of each image, as [b, 1] */
const imageRows = (b: number, pixels: number) =>
  constant(
    Array.from({ length: b }, (_, i) => i * pixels),
    [b, 1],
  );

/** theta [b, d, d + 1] → the positions [b, ...size, d] in -1 … 1 that GridSample reads */
function affineGrid(node: OnnxNode): Value {
  const theta = node.ranked(0, 3);
  const [b, , ...spatial] = node.integers(1, "size") ?? node.fail("the size is missing");
  const alignCorners = node.int("align_corners") === 1;
  const axes = spatial.length;
  const points = sizeOf(spatial);
  if (theta.shape[0] !== b || theta.shape[1] !== axes || theta.shape[2] !== axes + 1) {
    node.fail(`theta ${showShape(theta.shape)} does not fit ${axes} spatial axes`);
  }
  if (!(points * (axes + 1) <= MAX_ELEMENTS)) node.fail(`a grid of ${showShape(spatial)} is too large`);
  const strides = stridesOf(spatial);
  const base = Array.from({ length: points }, (_, at) => [
    ...spatial
      .map((extent, axis) => {
        const i = Math.floor(at / (strides[axis] as number)) % extent;
        if (!alignCorners) return (2 * i + 1) / extent - 1;
        return extent > 1 ? (2 * i) / (extent - 1) - 1 : 0;
      })
      .reverse(),
    1,
  ]).flat();
  const grid = matmul(constant(base, [points, axes + 1]), theta, { transposeB: true });
  return reshape(grid, [b as number, ...spatial, axes]);
}

/** Regions of interest (He et al. 2017): x [b, c, h, w], boxes [n, 4], the image of each box [n] → [n, c, height, width] */
function roiAlign(node: OnnxNode): Value {
  const [x, boxes, images] = [node.ranked(0, 4), node.ranked(1, 2), node.ranked(2, 1)];
  if (boxes.shape[1] !== 4 || images.shape[0] !== boxes.shape[0]) {
    node.fail(`boxes ${showShape(boxes.shape)} of images ${showShape(images.shape)} do not fit`);
  }
  const mode = node.choice("mode", ["avg", "max"], "avg");
  const isShifted =
    node.opset >= 16 &&
    node.choice("coordinate_transformation_mode", ["half_pixel", "output_half_pixel"], "half_pixel") === "half_pixel";
  const scale = node.float("spatial_scale") ?? 1;
  const size = [node.int("output_height") ?? 1, node.int("output_width") ?? 1] as const;
  const ratio = node.int("sampling_ratio") ?? 0;
  const pixels = pixelsOf(x);
  const [n, c] = [boxes.shape[0] as number, x.shape[1] as number];
  const samples = ratio > 0 ? [ratio, ratio] : samplesOf(node, scale, size);
  if (!(sizeOf(size) * sizeOf(samples) * n <= MAX_ELEMENTS && sizeOf(size) > 0)) {
    node.fail(`${n} boxes of ${showShape(size)} with ${showShape(samples)} samples are too many`);
  }
  // Columns of the boxes: x₁, y₁, x₂, y₂.
  const edge = (i: number) => sub(mul(slice(boxes, 1, [i, i + 1]), scale), isShifted ? 0.5 : 0);
  const positions = ([0, 1] as const).map((axis) => {
    const start = edge(1 - axis);
    const length = sub(edge(3 - axis), start);
    const whole = isShifted ? length : maximum(length, 1);
    const count = size[axis] * (samples[axis] as number);
    const shares = constant(
      Array.from({ length: count }, (_, i) => (i + 0.5) / count),
      [1, count],
    );
    return add(start, mul(whole, shares));
  }) as [Value, Value];
  const [rows, columns] = [positions[0].shape[1] as number, positions[1].shape[1] as number];
  const grid = positions.map((position, axis) => {
    const shape = axis === 0 ? [n, rows, 1] : [n, 1, columns];
    return reshape(add(reshape(position, shape), constant(new Float64Array(rows * columns), [1, rows, columns])), [
      n,
      -1,
    ]);
  }) as [Value, Value];
  // Beyond one pixel outside of the image is 0; within it, the edge is repeated.
  const bounded = grid.map((position, axis) => clip(position, 0, (pixels.spatial[axis] as number) - 1));
  const isInside = grid.map((position, axis) => {
    const extent = pixels.spatial[axis] as number;
    return mul(cast(not(less(position, -1)), "float32"), cast(not(greater(position, extent)), "float32"));
  }) as [Value, Value];
  const first = mul(cast(images, "float32"), sizeOf(pixels.spatial));
  const read = readTaps(pixels, tapsOf(bounded, linear), {
    images: reshape(first, [n, 1]),
    padding: "border",
    alignCorners: false,
  });
  const inside = reshape(mul(...isInside), [n, -1, 1]);
  // The largest of the four weighted pixels, as ONNX Runtime computes the mode max.
  const points = mul(mode === "avg" ? read.reduce(add) : read.reduce(maximum), inside);
  const [tall, wide] = samples as [number, number];
  const cells = reshape(points, [n, size[0], tall, size[1], wide, c]);
  const pooled = mode === "avg" ? mean(cells, [2, 4]) : max(cells, [2, 4]);
  return transpose(pooled, [0, 3, 1, 2]);
}

const not = (x: Value) => less(cast(x, "float32"), 0.5);

/** With sampling_ratio 0, the number of samples follows from the size of the boxes. All must agree. */
function samplesOf(node: OnnxNode, scale: number, size: readonly [number, number]): number[] {
  const boxes = node.numbers(1, "rois") ?? [];
  return ([0, 1] as const).map((axis) => {
    const counts = new Set<number>();
    for (let i = 0; i < boxes.length; i += 4) {
      const length = ((boxes[i + 3 - axis] as number) - (boxes[i + 1 - axis] as number)) * scale;
      counts.add(Math.max(1, Math.ceil(length / size[axis])));
    }
    const [count = 1, ...more] = counts;
    return more.length === 0
      ? count
      : node.fail("has boxes of different sizes and sampling_ratio 0. Export the model with a sampling_ratio", {
          attribute: "sampling_ratio",
        });
  });
}

/** Deformable convolution (Dai et al. 2017; with a mask, Zhu et al. 2019): each tap reads where its offset says. */
function deformConv(node: OnnxNode): Value {
  const [x, weight, offset, bias, mask] = [
    node.ranked(0, 4),
    node.ranked(1, 4),
    node.ranked(2, 4),
    node.optional(3),
    node.optional(4),
  ];
  const [b, c, ...extents] = x.shape as [number, number, ...number[]];
  const [out, perGroup, ...kernel] = weight.shape as [number, number, ...number[]];
  const [groups, offsetGroups] = [node.int("group") ?? 1, node.int("offset_group") ?? 1];
  if (kernel.length !== 2) node.fail(`expects images, found ${showShape(x.shape)}`);
  const stated = node.ints("kernel_shape") ?? kernel;
  if (showShape(stated) !== showShape(kernel))
    node.fail(`kernel_shape is not that of the weight, ${showShape(kernel)}`);
  const [strides, dilations] = [node.ints("strides") ?? [1, 1], node.ints("dilations") ?? [1, 1]];
  const pads = node.ints("pads") ?? [0, 0, 0, 0];
  const size = offset.shape.slice(2);
  const [taps, points] = [sizeOf(kernel), sizeOf(size)];
  const each = c / offsetGroups;
  if (!Number.isInteger(each) || c !== perGroup * groups || out % groups !== 0) {
    node.fail(`${groups} groups and ${offsetGroups} groups of offsets do not divide ${c} channels`);
  }
  if ([strides, dilations].some(({ length }) => length !== 2) || pads.length !== 4) {
    node.fail("strides, dilations or pads do not fit two axes");
  }
  if (taps * points > MAX_ELEMENTS) node.fail(`offsets ${showShape(offset.shape)} are too many`);
  // [b, group, tap, axis, point]
  const moves = reshape(offset, [b, offsetGroups, taps, 2, points]);
  const base = (axis: 0 | 1) =>
    constant(
      Array.from({ length: taps * points }, (_, i) => {
        const [tap, point] = [Math.floor(i / points), i % points];
        const at = axis === 0 ? Math.floor(tap / (kernel[1] as number)) : tap % (kernel[1] as number);
        const to = axis === 0 ? Math.floor(point / (size[1] as number)) : point % (size[1] as number);
        return to * (strides[axis] as number) - (pads[axis] as number) + at * (dilations[axis] as number);
      }),
      [1, taps * points],
    );
  const parts = Array.from({ length: offsetGroups }, (_, group) => {
    const pixels = pixelsOf(slice(x, 1, [group * each, (group + 1) * each]));
    const own = slice(moves, 1, [group, group + 1]);
    const positions = ([0, 1] as const).map((axis) =>
      add(base(axis), reshape(slice(own, 3, [axis, axis + 1]), [b, taps * points])),
    );
    const read = readTaps(pixels, tapsOf(positions, linear), {
      images: imageRows(b, sizeOf(extents)),
      padding: "zeros",
      alignCorners: true,
    }).reduce(add);
    if (!mask) return read;
    const shares = slice(reshape(mask, [b, offsetGroups, taps * points]), 1, [group, group + 1]);
    return mul(read, reshape(shares, [b, taps * points, 1]));
  });
  // [b, tap · point, c] → [b, groups, c / groups · tap, point]
  const read = reshape(concat(parts, 2), [b, taps, points, groups, perGroup]);
  const columns = reshape(transpose(read, [0, 3, 4, 1, 2]), [b, groups, perGroup * taps, points]);
  const y = reshape(matmul(reshape(weight, [groups, out / groups, perGroup * taps]), columns), [b, out, ...size]);
  return bias ? add(y, reshape(bias, [-1, 1, 1])) : y;
}

export const sampling: Operators = {
  GridSample: gridSample,
  AffineGrid: affineGrid,
  RoiAlign: roiAlign,
  DeformConv: deformConv,
};
