/** Resize and Upsample: https://onnx.ai/onnx/operators/ */
import type { Value } from "../../../graph/value.js";
import { constant, reshape, upsampleNearest, where } from "../../../ops/index.js";
import { CUBIC, LINEAR, type Resampling, resample } from "../../../ops/resize.js";
import { type Shape, showShape } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import { axesOf, fromFront, toFront } from "./indexing.js";
import type { Operators } from "./operator.js";

/** The input position of an output position: https://onnx.ai/onnx/operators/onnx__Resize.html */
const COORDINATES = {
  half_pixel: (i: number, scale: number) => (i + 0.5) / scale - 0.5,
  half_pixel_symmetric: (i: number, scale: number, from: number, to: number) =>
    (from / 2) * (1 - to / (from * scale)) + (i + 0.5) / scale - 0.5,
  pytorch_half_pixel: (i: number, scale: number, _: number, to: number) => (to > 1 ? (i + 0.5) / scale - 0.5 : 0),
  align_corners: (i: number, _: number, from: number, to: number) => (to > 1 ? (i * (from - 1)) / (to - 1) : 0),
  asymmetric: (i: number, scale: number) => i / scale,
} as const;
const COORDINATE_MODES = Object.keys(COORDINATES) as (keyof typeof COORDINATES)[];

const ROUNDING = {
  round_prefer_floor: (x: number) => Math.ceil(x - 0.5),
  round_prefer_ceil: (x: number) => Math.floor(x + 0.5),
  floor: Math.floor,
  ceil: Math.ceil,
} as const;
const NEAREST_MODES = Object.keys(ROUNDING) as (keyof typeof ROUNDING)[];

/** Limit on the resampling matrix of one axis, so that a hostile file cannot fill the memory. */
const MAX_WEIGHTS = 2 ** 24;

/** `attribute` scaled so that the aspect ratio is kept: the result is within the wanted sizes, or covers them. */
const POLICIES = { stretch: undefined, not_larger: Math.min, not_smaller: Math.max } as const;

function resized(node: OnnxNode): Value {
  const x = node.input(0);
  const rank = x.shape.length;
  const before11 = node.opset < 11;
  const policy = node.choice("keep_aspect_ratio_policy", ["stretch", "not_larger", "not_smaller"], "stretch");
  const axes = axesOf(node.ints("axes") ?? x.shape.map((_, axis) => axis), rank, "Resize");
  const isCropped = node.string("coordinate_transformation_mode") === "tf_crop_and_resize";
  // Only this mode reads the region.
  if (!isCropped) node.ignore(1, "extrapolation_value");
  const region = isCropped ? regionOf(node, axes, rank) : undefined;
  const complete = (values: readonly number[], rest: (axis: number) => number): number[] => {
    if (values.length !== axes.length) node.fail(`has ${values.length} sizes or scales for ${axes.length} axes`);
    return x.shape.map((_, axis) => values[axes.indexOf(axis)] ?? rest(axis));
  };
  const sizes = before11 ? undefined : node.integers(3, "sizes");
  const factors = node.floats("scales") ?? node.numbers(before11 ? 1 : 2, "scales");
  const isGiven = (values: readonly number[] | undefined): values is number[] =>
    values !== undefined && values.length > 0;
  const keep = (axis: number) => x.shape[axis] as number;
  if (isGiven(sizes)) {
    const wanted = complete(sizes, keep);
    const pick = POLICIES[policy];
    if (!pick) {
      const scales = wanted.map((extent, axis) => extent / keep(axis));
      return resizeTo(node, x, { size: wanted, scales, before11, region });
    }
    const scale = pick(...axes.map((axis) => (wanted[axis] as number) / keep(axis)));
    const size = wanted.map((extent, axis) => (axes.includes(axis) ? Math.floor(scale * keep(axis) + 0.5) : extent));
    return resizeTo(node, x, {
      size,
      scales: size.map((_, axis) => (axes.includes(axis) ? scale : 1)),
      before11,
      region,
    });
  }
  if (!isGiven(factors)) node.fail("sizes and scales are both missing");
  const scales = complete(factors, () => 1);
  const size = scales.map((scale, axis) => {
    const [start, end] = region?.[axis] ?? [0, 1];
    return Math.floor(keep(axis) * (end - start) * scale);
  });
  return resizeTo(node, x, { size, scales, before11, region });
}

/** The part of each axis that tf_crop_and_resize takes, as shares of its length. */
function regionOf(node: OnnxNode, axes: readonly number[], rank: number): [start: number, end: number][] {
  const shares = node.numbers(1, "roi") ?? [];
  if (shares.length !== 2 * axes.length) node.fail(`roi has ${shares.length} numbers for ${axes.length} axes`);
  return Array.from({ length: rank }, (_, axis) => {
    const at = axes.indexOf(axis);
    return at < 0 ? [0, 1] : [shares[at] as number, shares[at + axes.length] as number];
  });
}

interface Target {
  readonly size: Shape;
  readonly scales: readonly number[];
  /** The attributes of older opsets are fixed: asymmetric coordinates and floor. */
  readonly before11: boolean;
  readonly region?: readonly (readonly [start: number, end: number])[] | undefined;
}

function resizeTo(node: OnnxNode, x: Value, { size, scales, before11, region }: Target): Value {
  const mode = node.choice("mode", ["nearest", "linear", "bilinear", "cubic"], "nearest");
  const transformation = before11
    ? "asymmetric"
    : region
      ? "tf_crop_and_resize"
      : node.choice("coordinate_transformation_mode", COORDINATE_MODES, "half_pixel");
  const rounding = before11 ? "floor" : node.choice("nearest_mode", NEAREST_MODES, "round_prefer_floor");
  const antialias = node.int("antialias") === 1;
  const outside = node.int("exclude_outside") === 1 ? "exclude" : "clamp";
  const coefficient = node.float("cubic_coeff_a") ?? -0.75;
  const rank = x.shape.length;
  if (size.some((extent) => extent < 1)) node.fail(`the output would be empty: ${showShape(size)}`);

  const [h, w] = x.shape.slice(-2) as [number, number];
  const [height, width] = size.slice(-2) as [number, number];
  const factor = height / h;
  const isTiled =
    rank === 4 && factor === width / w && Number.isInteger(factor) && size[0] === x.shape[0] && size[1] === x.shape[1];
  const isHalfPixel = transformation === "half_pixel" || transformation === "pytorch_half_pixel";
  if (
    mode === "nearest" &&
    isTiled &&
    ((transformation === "asymmetric" && rounding === "floor") || (isHalfPixel && rounding.startsWith("round")))
  ) {
    return factor === 1 ? x : upsampleNearest(x, factor);
  }
  const positionOf = (axis: number, i: number): number => {
    const [from, to, scale] = [x.shape[axis] as number, size[axis] as number, scales[axis] as number];
    if (transformation !== "tf_crop_and_resize") return COORDINATES[transformation](i, scale, from, to);
    const [start, end] = region?.[axis] ?? [0, 1];
    return (from - 1) * (to > 1 ? start + (i * (end - start)) / (to - 1) : (start + end) / 2);
  };
  const along = (axis: number): Resampling | undefined => {
    const [from, to, scale] = [x.shape[axis] as number, size[axis] as number, scales[axis] as number];
    const [start, end] = region?.[axis] ?? [0, 1];
    if (from === to && scale === 1 && start === 0 && end === 1) return undefined;
    if (from * to > MAX_WEIGHTS) node.fail(`resizing ${from} to ${to} pixels takes too much memory`);
    const at = (i: number) => positionOf(axis, i);
    const stretch = antialias ? Math.max(1, 1 / scale) : 1;
    switch (mode) {
      case "nearest":
        return { from, to, kernel: LINEAR, position: (i) => ROUNDING[rounding](at(i)) };
      case "linear":
      case "bilinear":
        return { from, to, kernel: LINEAR, position: at, outside, stretch };
      case "cubic":
        return { from, to, kernel: CUBIC(coefficient), position: at, outside, stretch };
    }
  };
  const flat = Math.max(0, rank - 2);
  const others = x.shape.slice(0, flat).reduce((y, _, axis) => resampleAxis(y, axis, along(axis)), x);
  const y = rank === 1 ? resampleAxis(others, 0, along(0)) : resample(others, along(rank - 2), along(rank - 1));
  if (!region) return y;
  const value = node.float("extrapolation_value") ?? 0;
  // Positions beyond the edge of any axis get the value.
  return size.reduce((filled, to, axis) => {
    const last = (x.shape[axis] as number) - 1;
    const inside = Array.from({ length: to }, (_, i) =>
      Number(positionOf(axis, i) >= 0 && positionOf(axis, i) <= last),
    );
    const shape = size.map((_, other) => (other === axis ? to : 1));
    return inside.every(Boolean) ? filled : where(constant(inside, shape, "bool"), filled, value);
  }, y);
}

/** Resamples an axis that is not one of the last two. */
function resampleAxis(x: Value, axis: number, resampling: Resampling | undefined): Value {
  if (!resampling) return x;
  const front = toFront(x, axis);
  const rows = resample(reshape(front, [resampling.from, -1]), resampling, undefined);
  return fromFront(reshape(rows, [resampling.to, ...front.shape.slice(1)]), axis);
}

export const resizing: Operators = {
  Resize: resized,
  Upsample: (node) => {
    const x = node.input(0);
    const scales = node.floats("scales") ?? node.numbers(1, "scales") ?? node.fail("scales are missing");
    if (scales.length !== x.shape.length) node.fail(`has ${scales.length} scales for ${x.shape.length} axes`);
    const size = scales.map((scale, axis) => Math.floor((x.shape[axis] as number) * scale));
    return resizeTo(node, x, { size, scales, before11: true });
  },
};
