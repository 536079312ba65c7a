/** Operators that reshape, permute, repeat or pad: https://onnx.ai/onnx/operators/ */
import type { Value } from "../../../graph/value.js";
import { broadcastTo, cast, concat, constant, pad, reshape, slice, transpose, where } from "../../../ops/index.js";
import { isFloating } from "../../../tensor/dtype.js";
import { broadcastShapes, normalizeAxis, showShape, sizeOf } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import { axesOf, MAX_ELEMENTS, take } from "./indexing.js";
import type { Operators } from "./operator.js";

function reshaped(node: OnnxNode): Value {
  const x = node.input(0);
  const wanted = node.intsOrInput("shape", 1) ?? node.fail("the shape is missing");
  const keepsZeros = node.int("allowzero") === 1;
  const shape = wanted.map((extent, i) => (extent === 0 && !keepsZeros ? (x.shape[i] ?? 0) : extent));
  if (shape.filter((extent) => extent === -1).length > 1 || shape.some((extent) => extent < -1)) {
    return node.fail(`${showShape(wanted)} is not a valid shape`);
  }
  const known = shape.reduce((product, extent) => (extent === -1 ? product : product * extent), 1);
  if (shape.includes(-1) && (known === 0 || sizeOf(x.shape) % known !== 0)) {
    return node.fail(`cannot reshape ${showShape(x.shape)} to ${showShape(wanted)}`);
  }
  return reshape(x, shape);
}

function flattened(node: OnnxNode): Value {
  const x = node.input(0);
  const at = node.int("axis") ?? 1;
  const axis = at === x.shape.length ? at : normalizeAxis(at, x.shape.length, "Flatten");
  return reshape(x, [sizeOf(x.shape.slice(0, axis)), sizeOf(x.shape.slice(axis))]);
}

function squeezed(node: OnnxNode): Value {
  const x = node.input(0);
  const given = node.intsOrInput("axes", 1);
  const axes = given && axesOf(given, x.shape.length, "Squeeze");
  const wrong = axes?.find((axis) => x.shape[axis] !== 1);
  if (wrong !== undefined) node.fail(`axis ${wrong} of ${showShape(x.shape)} is not of length 1`);
  return reshape(
    x,
    x.shape.filter((extent, axis) => (axes ? !axes.includes(axis) : extent !== 1)),
  );
}

function unsqueezed(node: OnnxNode): Value {
  const x = node.input(0);
  const given = node.intsOrInput("axes", 1) ?? node.fail("axes are missing");
  const axes = new Set(axesOf(given, x.shape.length + given.length, "Unsqueeze"));
  const extents = x.shape.values();
  const rank = x.shape.length + axes.size;
  return reshape(
    x,
    Array.from({ length: rank }, (_, axis) => (axes.has(axis) ? 1 : (extents.next().value as number))),
  );
}

function expanded(node: OnnxNode): Value {
  const x = node.input(0);
  const wanted = node.integers(1, "shape") ?? node.fail("the shape is missing");
  const shape = broadcastShapes(x.shape, wanted);
  return shape ? broadcastTo(x, shape) : node.fail(`cannot expand ${showShape(x.shape)} to ${showShape(wanted)}`);
}

function tiled(node: OnnxNode): Value {
  const x = node.input(0);
  const repeats = node.integers(1, "repeats") ?? node.fail("repeats are missing");
  if (repeats.length !== x.shape.length)
    node.fail(`repeats ${showShape(repeats)} do not match the rank of ${showShape(x.shape)}`);
  const pairs = x.shape.flatMap((extent, i) => [repeats[i] as number, extent]);
  const withNewAxes = reshape(
    x,
    x.shape.flatMap((extent) => [1, extent]),
  );
  return reshape(
    broadcastTo(withNewAxes, pairs),
    x.shape.map((extent, i) => extent * (repeats[i] as number)),
  );
}

function padded(node: OnnxNode): Value {
  const x = node.input(0);
  const rank = x.shape.length;
  const amounts =
    node.ints("pads") ?? node.ints("paddings") ?? node.integers(1, "pads") ?? node.fail("pads are missing");
  const axes = axesOf(node.integers(3, "axes") ?? x.shape.map((_, i) => i), rank, "Pad");
  if (amounts.length !== 2 * axes.length)
    node.fail(`has ${amounts.length} pads for ${axes.length} axes, but needs two per axis`);
  const around = x.shape.map((): [number, number] => [0, 0]);
  for (const [i, axis] of axes.entries()) around[axis] = [amounts[i] as number, amounts[i + axes.length] as number];
  const mode = node.choice("mode", ["constant", "reflect", "edge", "wrap"], "constant");
  // A negative pad crops.
  const cut = around.reduce((part, [before, after], axis) => {
    const extent = part.shape[axis] as number;
    const [start, stop] = [Math.max(0, -before), extent - Math.max(0, -after)];
    return start <= stop
      ? slice(part, axis, [start, stop])
      : node.fail(`negative pads crop axis ${axis} by more than its length ${extent}`);
  }, x);
  const growth = around.map(([before, after]): [number, number] => [Math.max(0, before), Math.max(0, after)]);
  if (mode !== "constant") {
    node.ignore("value", 2);
    return extended(cut, growth, mode, node);
  }
  const value = node.float("value") ?? node.number(2, "value") ?? 0;
  if (value === 0 && isFloating(x.dtype)) return pad(cut, growth);
  const inside = pad(cast(broadcastTo(constant([1], []), cut.shape), "float32"), growth);
  const zeroPadded = cast(pad(cast(cut, "float32"), growth), x.dtype);
  return where(cast(inside, "bool"), zeroPadded, constant([value], [], x.dtype));
}

/** Padding by elements of x itself: each output position is mirrored, clamped or wrapped to an input position. */
function extended(
  x: Value,
  growth: readonly (readonly [number, number])[],
  mode: "reflect" | "edge" | "wrap",
  node: OnnxNode,
): Value {
  return growth.reduce((part, [before, after], axis) => {
    const extent = part.shape[axis] as number;
    const length = before + extent + after;
    if (before === 0 && after === 0) return part;
    if (extent === 0 || length > MAX_ELEMENTS) return node.fail(`cannot pad an axis of length ${extent} to ${length}`);
    const period = Math.max(1, 2 * (extent - 1));
    const source = (position: number) => {
      if (mode === "edge") return Math.min(Math.max(position, 0), extent - 1);
      if (mode === "wrap") return ((position % extent) + extent) % extent;
      const within = ((position % period) + period) % period;
      return within < extent ? within : period - within;
    };
    return take(
      part,
      axis,
      Array.from({ length }, (_, i) => source(i - before)),
    );
  }, x);
}

function transposed(node: OnnxNode): Value {
  const x = node.input(0);
  return transpose(x, node.ints("perm") ?? x.shape.map((_, i) => x.shape.length - 1 - i));
}

/** x [b, c · s², h, w] → [b, c, h · s, w · s] */
function depthToSpace(node: OnnxNode): Value {
  const x = node.input(0);
  const [b, c, h, w] = imageOf(x, node);
  const s = node.int("blocksize") ?? 1;
  const columnsFirst = node.choice("mode", ["DCR", "CRD"], "DCR") === "CRD";
  const depth = c / (s * s);
  const blocks = reshape(x, columnsFirst ? [b, depth, s, s, h, w] : [b, s, s, depth, h, w]);
  return reshape(transpose(blocks, columnsFirst ? [0, 1, 4, 2, 5, 3] : [0, 3, 4, 1, 5, 2]), [b, depth, h * s, w * s]);
}

/** x [b, c, h, w] → [b, c · s², h / s, w / s] */
function spaceToDepth(node: OnnxNode): Value {
  const x = node.input(0);
  const [b, c, h, w] = imageOf(x, node);
  const s = node.int("blocksize") ?? 1;
  const columnsFirst = node.choice("mode", ["DCR", "CRD"], "DCR") === "CRD";
  const blocks = reshape(x, [b, c, h / s, s, w / s, s]);
  return reshape(transpose(blocks, columnsFirst ? [0, 1, 3, 5, 2, 4] : [0, 3, 5, 1, 2, 4]), [
    b,
    c * s * s,
    h / s,
    w / s,
  ]);
}

function imageOf({ shape }: Value, node: OnnxNode): [number, number, number, number] {
  return shape.length === 4
    ? (shape as unknown as [number, number, number, number])
    : node.fail(`${showShape(shape)} is not a batch of images [b, c, h, w]`);
}

export const movement: Operators = {
  Reshape: reshaped,
  Flatten: flattened,
  Squeeze: squeezed,
  Unsqueeze: unsqueezed,
  Transpose: transposed,
  Expand: expanded,
  Tile: tiled,
  Concat: (node) => concat(node.all(), node.axis("axis", 0, node.input(0).shape.length)),
  Pad: padded,
  DepthToSpace: depthToSpace,
  SpaceToDepth: spaceToDepth,
};
