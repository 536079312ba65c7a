/** Layers that read features where boxes or offsets say: https://onnx.ai/onnx/operators/onnx__RoiAlign.html */
import type { Value } from "../../../graph/value.js";
import {
  add,
  cast,
  clip,
  concat,
  constant,
  greater,
  less,
  matmul,
  max,
  maximum,
  mean,
  mul,
  reshape,
  slice,
  sub,
  transpose,
} from "../../../ops/index.js";
import { showShape, sizeOf } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import { MAX_ELEMENTS } from "./indexing.js";
import { imageRows, linear, pixelsOf, readTaps, tapsOf } from "./interpolation.js";
import type { Operators } from "./operator.js";

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

export const regions: Operators = { RoiAlign: roiAlign, DeformConv: deformConv };
