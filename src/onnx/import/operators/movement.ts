/** Operators that move elements, and those that compute shapes and indices: https://onnx.ai/onnx/operators/ */
import type { Value } from "../../../graph/value.js";
import {
  add,
  broadcastTo,
  cast,
  concat,
  constant,
  flip,
  gather,
  less,
  matmul,
  mul,
  pad,
  reshape,
  scatterRows,
  slice,
  sub,
  sum,
  transpose,
  where,
} from "../../../ops/index.js";
import { isFloating } from "../../../tensor/dtype.js";
import { broadcastShapes, normalizeAxis, showShape, sizeOf, stridesOf } from "../../../tensor/shape.js";
import { integers, numbersOf, type OnnxNode } from "../node.js";
import type { Operators } from "./operator.js";

/** Limit on constants that are generated from a few numbers in a file, such as by Range. */
const MAX_ELEMENTS = 2 ** 22;

const axesOf = (axes: readonly number[], rank: number, who: string) =>
  axes.map((axis) => normalizeAxis(axis, rank, who));

/** x with `axis` moved to the front. */
export const toFront = (x: Value, axis: number) => {
  const others = x.shape.map((_, i) => i).filter((i) => i !== axis);
  return axis === 0 ? x : transpose(x, [axis, ...others]);
};

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

function sliced(node: OnnxNode): Value {
  const x = node.input(0);
  const starts = node.intsOrInput("starts", 1) ?? node.fail("starts are missing");
  const ends = node.intsOrInput("ends", 2) ?? node.fail("ends are missing");
  const axes = axesOf(node.intsOrInput("axes", 3) ?? starts.map((_, i) => i), x.shape.length, "Slice");
  const steps = node.integers(4, "steps") ?? starts.map(() => 1);
  if ([ends, axes, steps].some(({ length }) => length !== starts.length)) {
    node.fail("starts, ends, axes and steps differ in length");
  }
  return axes.reduce((part, axis, i) => {
    const extent = part.shape[axis] as number;
    const step = steps[i] as number;
    if (step === 0) node.fail("a step is 0");
    const from = (position: number) => (position < 0 ? position + extent : position);
    const [start, end] = [from(starts[i] as number), from(ends[i] as number)];
    const within = (position: number) => Math.min(Math.max(position, 0), extent);
    if (step > 0) return slice(part, axis, within(start), Math.max(within(start), within(end)), step);
    // A negative step is a positive one on the flipped axis. An end below -extent includes the first element.
    const first = within(extent - 1 - Math.min(start, extent - 1));
    const last = within(extent - 1 - Math.max(end, -1));
    return slice(flip(part, [axis]), axis, first, Math.max(first, last), -step);
  }, x);
}

function split(node: OnnxNode): Value[] {
  const x = node.input(0);
  const axis = node.axis("axis", 0, x.shape.length);
  const extent = x.shape[axis] as number;
  const parts = node.int("num_outputs") ?? node.outputs;
  const each = Math.ceil(extent / parts);
  const sizes =
    node.intsOrInput("split", 1) ??
    Array.from({ length: node.outputs }, (_, i) => Math.max(0, Math.min(each, extent - i * each)));
  if (sizes.some((size) => size < 0) || sizes.reduce((a, b) => a + b, 0) !== extent || sizes.length < node.outputs) {
    node.fail(`cannot split axis ${axis} of ${showShape(x.shape)} into ${showShape(sizes)}`);
  }
  let start = 0;
  return sizes.map((size) => {
    start += size;
    return slice(x, axis, start - size, start);
  });
}

/** Gathers constant indices along an axis. An arithmetic progression becomes a slice, whose gradient is a cheap padding. */
export function take(x: Value, axis: number, indices: readonly number[]): Value {
  const [first = 0, second = first + 1] = indices;
  const step = second - first;
  if (indices.length > 0 && step > 0 && indices.every((index, i) => index === first + i * step)) {
    return slice(x, axis, first, (indices.at(-1) as number) + 1, step);
  }
  return gatherAlong(x, axis, integers(indices));
}

function gatherAlong(x: Value, axis: number, indices: Value): Value {
  const rows = gather(toFront(x, axis), indices);
  if (axis === 0) return rows;
  // Moves the axes of the indices to the place of the gathered axis.
  const gathered = indices.shape.map((_, i) => i);
  const rest = x.shape.slice(1).map((_, i) => gathered.length + i);
  return transpose(rows, [...rest.slice(0, axis), ...gathered, ...rest.slice(axis)]);
}

function gathered(node: OnnxNode): Value {
  const [x, indices] = [node.input(0), node.input(1)];
  const axis = node.axis("axis", 0, x.shape.length);
  const known = numbersOf(indices);
  if (!known) return gatherAlong(x, axis, cast(indices, "int64"));
  const positions = positionsIn(known.data, x.shape[axis] as number, node);
  const shape = [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)];
  return reshape(take(x, axis, positions), shape);
}

/** Indices as 0 … extent - 1. Negative ones count from the end. */
export function positionsIn(indices: ArrayLike<number>, extent: number, node: OnnxNode): number[] {
  return Array.from(indices, (index) => {
    const position = index < 0 ? index + extent : index;
    return position >= 0 && position < extent
      ? position
      : node.fail(`the index ${index} is out of range for an axis of length ${extent}`);
  });
}

/** x [d₁ … dₖ, rest], indices [..., k] → slices [..., rest] */
function gatheredND(node: OnnxNode): Value {
  const [x, indices] = [node.input(0), node.input(1)];
  if ((node.int("batch_dims") ?? 0) !== 0) node.fail("batch_dims other than 0 is not supported");
  const count = indices.shape.at(-1) ?? node.fail("indices are a scalar");
  if (count > x.shape.length)
    node.fail(`indices ${showShape(indices.shape)} have more columns than ${showShape(x.shape)} has axes`);
  const [indexed, rest] = [x.shape.slice(0, count), x.shape.slice(count)];
  const rows = reshape(x, [sizeOf(indexed), ...rest]);
  const ids = cast(indices, "int64");
  const positions = add(ids, mul(cast(less(ids, 0), "int64"), integers(indexed)));
  return gather(rows, sum(mul(positions, integers(stridesOf(indexed))), -1));
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
      ? slice(part, axis, start, stop)
      : node.fail(`negative pads crop axis ${axis} by more than its length ${extent}`);
  }, x);
  const growth = around.map(([before, after]): [number, number] => [Math.max(0, before), Math.max(0, after)]);
  if (mode !== "constant") return extended(cut, growth, mode, node);
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

function shapeOf(node: OnnxNode): Value {
  const { shape } = node.input(0);
  return integers(shape.slice(node.int("start") ?? 0, node.int("end") ?? shape.length));
}

function range(node: OnnxNode): Value {
  const [start, limit, delta] = ["start", "limit", "delta"].map(
    (what, i) => node.number(i, what) ?? node.fail(`${what} is missing`),
  ) as [number, number, number];
  const length = Math.max(0, Math.ceil((limit - start) / delta));
  if (!(length <= MAX_ELEMENTS))
    node.fail(`the range from ${start} to ${limit} by ${delta} has more than ${MAX_ELEMENTS} elements`);
  const { dtype } = node.input(0);
  return constant(
    Array.from({ length }, (_, i) => start + i * delta),
    [length],
    dtype,
  );
}

function constantOfShape(node: OnnxNode): Value {
  const shape = node.integers(0, "shape") ?? node.fail("the shape is missing");
  const value = node.tensor ?? constant([0], [1]);
  if (shape.some((extent) => extent < 0)) node.fail(`${showShape(shape)} is not a valid shape`);
  return broadcastTo(reshape(value, []), shape);
}

function literal(node: OnnxNode): Value {
  const [float, floats] = [node.float("value_float"), node.floats("value_floats")];
  const [int, ints] = [node.int("value_int"), node.ints("value_ints")];
  if (node.tensor) return node.tensor;
  if (float !== undefined) return constant([float], []);
  if (int !== undefined) return constant([int], [], "int64");
  if (floats) return constant(floats, [floats.length]);
  return ints ? integers(ints) : node.fail("has no value that is a dense tensor or numbers");
}

/** A constant matrix of 1 in the upper or lower triangle, from or up to diagonal `k`, and 0 elsewhere. */
function triangle(
  node: OnnxNode,
  { rows, columns, k, upper }: { rows: number; columns: number; k: number; upper: boolean },
): Value {
  if (rows * columns > MAX_ELEMENTS) node.fail(`a matrix of ${rows}x${columns} is too large`);
  const inside = (i: number) => {
    const diagonal = (i % columns) - Math.floor(i / columns);
    return Number(upper ? diagonal >= k : diagonal <= k);
  };
  return constant(
    Array.from({ length: rows * columns }, (_, i) => inside(i)),
    [rows, columns],
  );
}

function triangular(node: OnnxNode): Value {
  const x = node.input(0);
  const [rows, columns] = x.shape.slice(-2);
  if (rows === undefined || columns === undefined) return node.fail(`${showShape(x.shape)} is not a matrix`);
  const inside = triangle(node, { rows, columns, k: node.integer(1, "k") ?? 0, upper: node.int("upper") !== 0 });
  return where(cast(inside, "bool"), x, constant([0], [], x.dtype));
}

/** The cumulative sum, as a product with a triangular matrix of ones. */
function cumulativeSum(node: OnnxNode): Value {
  const x = node.input(0);
  const axis = normalizeAxis(node.integer(1, "axis") ?? 0, x.shape.length, "CumSum");
  const extent = x.shape[axis] as number;
  const [exclusive, reverse] = [node.int("exclusive") === 1, node.int("reverse") === 1];
  const offset = exclusive ? 1 : 0;
  const ones = triangle(node, { rows: extent, columns: extent, k: reverse ? offset : -offset, upper: reverse });
  const rows = reshape(cast(toFront(x, axis), "float32"), [extent, -1]);
  const front = toFront(x, axis).shape;
  const back = reshape(matmul(ones, rows), front);
  const order = front.map((_, i) => (i < axis ? i + 1 : i === axis ? 0 : i));
  return cast(axis === 0 ? back : transpose(back, order), x.dtype);
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
  const blocks = reshape(x, [b, c, h / s, s, w / s, s]);
  return reshape(transpose(blocks, [0, 3, 5, 1, 2, 4]), [b, c * s * s, h / s, w / s]);
}

export function imageOf({ shape }: Value, node: OnnxNode): [number, number, number, number] {
  return shape.length === 4
    ? (shape as unknown as [number, number, number, number])
    : node.fail(`${showShape(shape)} is not a batch of images [b, c, h, w]`);
}

/** Replaces slices, or adds to them: x [d₁ … dₖ, rest], constant indices [..., k], updates [..., rest] → like x. */
function scatteredND(node: OnnxNode): Value {
  const [x, updates] = [node.input(0), node.input(2)];
  const { shape } = x;
  const indices = node.integers(1, "indices") ?? [];
  const count = node.input(1).shape.at(-1) ?? node.fail("indices are a scalar");
  if (!(count >= 1 && count <= shape.length))
    node.fail(`has ${count} indices per slice of ${showShape(shape)}, but needs from 1 to ${shape.length}`);
  const [indexed, rest] = [shape.slice(0, count), shape.slice(count)];
  const strides = stridesOf(indexed);
  const rows = Array.from({ length: indices.length / count }, (_, i) =>
    indexed.reduce((at, extent, axis) => {
      const [position] = positionsIn([indices[i * count + axis] as number], extent, node);
      return at + (position as number) * (strides[axis] as number);
    }, 0),
  );
  const size = sizeOf(indexed);
  if (size > MAX_ELEMENTS) node.fail(`${showShape(indexed)} has too many slices`);
  const placed = scatterRows(integers(rows), reshape(updates, [rows.length, ...rest]), size);
  const updated = reshape(placed, shape);
  if (node.choice("reduction", ["none", "add"], "none") === "add") return add(x, updated);
  if (new Set(rows).size !== rows.length) node.fail("replaces one slice twice");
  const replaced = new Float64Array(size);
  for (const row of rows) replaced[row] = 1;
  return where(constant(replaced, [...indexed, ...rest.map(() => 1)], "bool"), updated, x);
}

function nonZero(node: OnnxNode): Value {
  const { shape } = node.input(0);
  const data = node.numbers(0, "operand") ?? [];
  const strides = stridesOf(shape);
  const found = data.flatMap((value, i) => (value === 0 ? [] : [i]));
  const index = (at: number, axis: number) => Math.floor(at / (strides[axis] as number)) % (shape[axis] as number);
  return constant(
    shape.flatMap((_, axis) => found.map((at) => index(at, axis))),
    [shape.length, found.length],
    "int64",
  );
}

function oneHot(node: OnnxNode): Value {
  const indices = node.input(0);
  const depth = node.integer(1, "depth") ?? node.fail("depth is missing");
  const [off, on] = node.numbers(2, "values") ?? [];
  const ids = node.integers(0, "indices") ?? [];
  if (off === undefined || on === undefined) return node.fail("values must be two numbers");
  if (!(depth * ids.length <= MAX_ELEMENTS)) return node.fail(`depth ${depth} is too large`);
  const axis = node.axis("axis", -1, indices.shape.length + 1);
  const rows = ids.flatMap((id) =>
    Array.from({ length: depth }, (_, i) => (i === (id < 0 ? id + depth : id) ? on : off)),
  );
  const last = constant(rows, [...indices.shape, depth], node.input(2).dtype);
  const order = indices.shape.map((_, i) => i);
  return transpose(last, [...order.slice(0, axis), indices.shape.length, ...order.slice(axis)]);
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
  Slice: sliced,
  Split: split,
  Gather: gathered,
  GatherND: gatheredND,
  ScatterND: scatteredND,
  Pad: padded,
  DepthToSpace: depthToSpace,
  SpaceToDepth: spaceToDepth,
  Shape: shapeOf,
  Size: (node) => constant([sizeOf(node.input(0).shape)], [], "int64"),
  Constant: literal,
  ConstantOfShape: constantOfShape,
  Range: range,
  NonZero: nonZero,
  OneHot: oneHot,
  Trilu: triangular,
  CumSum: cumulativeSum,
  EyeLike: (node) => {
    const { shape, dtype } = node.input(0);
    const [rows, columns] = shape as [number, number];
    if (shape.length !== 2) node.fail(`${showShape(shape)} is not a matrix`);
    const k = node.int("k") ?? 0;
    const upTo = (k: number) => triangle(node, { rows, columns, k, upper: false });
    return cast(sub(upTo(k), upTo(k - 1)), dtype);
  },
};
