/** Resize and Upsample: https://onnx.ai/onnx/operators/ */
import type { Value } from "../../../graph/value.js";
import { upsampleNearest } from "../../../ops/index.js";
import { CUBIC, LINEAR, type Resampling, resample } from "../../../ops/resize.js";
import { type Shape, showShape } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
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

function resized(node: OnnxNode): Value {
  const x = node.input(0);
  const before11 = node.opset < 11;
  node.choice("keep_aspect_ratio_policy", ["stretch"], "stretch");
  const axes = node.ints("axes") ?? x.shape.map((_, axis) => axis);
  const complete = (values: readonly number[], rest: (axis: number) => number): number[] => {
    if (values.length !== axes.length) node.fail(`has ${values.length} sizes or scales for ${axes.length} axes`);
    return x.shape.map(
      (_, axis) => values[axes.findIndex((at) => (at < 0 ? at + x.shape.length : at) === axis)] ?? rest(axis),
    );
  };
  const sizes = before11 ? undefined : node.integers(3, "sizes");
  const factors = node.floats("scales") ?? node.numbers(before11 ? 1 : 2, "scales");
  const isGiven = (values: readonly number[] | undefined): values is number[] =>
    values !== undefined && values.length > 0;
  if (!isGiven(sizes) && !isGiven(factors)) node.fail("sizes and scales are both missing");
  const size = isGiven(sizes)
    ? complete(sizes, (axis) => x.shape[axis] as number)
    : complete(factors as number[], () => 1).map((scale, axis) => Math.floor((x.shape[axis] as number) * scale));
  const scales = isGiven(sizes)
    ? size.map((extent, axis) => extent / (x.shape[axis] as number))
    : complete(factors as number[], () => 1);
  return resizeTo(node, x, { size, scales, before11 });
}

interface Target {
  readonly size: Shape;
  readonly scales: readonly number[];
  /** The attributes of older opsets are fixed: asymmetric coordinates and floor. */
  readonly before11: boolean;
}

function resizeTo(node: OnnxNode, x: Value, { size, scales, before11 }: Target): Value {
  const mode = node.choice("mode", ["nearest", "linear", "bilinear", "cubic"], "nearest");
  const transformation = before11
    ? "asymmetric"
    : node.choice("coordinate_transformation_mode", COORDINATE_MODES, "half_pixel");
  const rounding = before11 ? "floor" : node.choice("nearest_mode", NEAREST_MODES, "round_prefer_floor");
  const antialias = node.int("antialias") === 1;
  const outside = node.int("exclude_outside") === 1 ? "exclude" : "clamp";
  const rank = x.shape.length;
  const moved = size.findIndex((extent, axis) => extent !== x.shape[axis] && axis < rank - 2);
  if (moved >= 0)
    node.fail(`resizes axis ${moved} of ${showShape(x.shape)}, but only the last two axes can be resized`);
  if (size.some((extent) => extent < 1)) node.fail(`the output would be empty: ${showShape(size)}`);

  const [h, w] = x.shape.slice(-2) as [number, number];
  const [height, width] = size.slice(-2) as [number, number];
  const factor = height / h;
  const tiled = factor === width / w && Number.isInteger(factor) && rank === 4;
  const isHalfPixel = transformation === "half_pixel" || transformation === "pytorch_half_pixel";
  if (
    mode === "nearest" &&
    tiled &&
    ((transformation === "asymmetric" && rounding === "floor") || (isHalfPixel && rounding.startsWith("round")))
  ) {
    return factor === 1 ? x : upsampleNearest(x, factor);
  }
  const along = (axis: number): Resampling | undefined => {
    const [from, to, scale] = [x.shape[axis] as number, size[axis] as number, scales[axis] as number];
    if (from === to && scale === 1) return undefined;
    if (from * to > MAX_WEIGHTS) node.fail(`resizing ${from} to ${to} pixels takes too much memory`);
    const at = (i: number) => COORDINATES[transformation](i, scale, from, to);
    const stretch = antialias ? Math.max(1, 1 / scale) : 1;
    switch (mode) {
      case "nearest":
        return { from, to, kernel: LINEAR, position: (i) => ROUNDING[rounding](at(i)) };
      case "linear":
      case "bilinear":
        return { from, to, kernel: LINEAR, position: at, outside, stretch };
      case "cubic":
        return { from, to, kernel: CUBIC(node.float("cubic_coeff_a") ?? -0.75), position: at, outside, stretch };
    }
  };
  return resample(x, along(rank - 2), along(rank - 1));
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
