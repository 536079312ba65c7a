/** What moves elements, and what makes the integers that say where to. */
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

/** Literals longer than this are not made out of a few numbers in a file. */
const MOST_ELEMENTS = 2 ** 22;

const axesOf = (axes: readonly number[], rank: number, who: string) =>
  axes.map((axis) => normalizeAxis(axis, rank, who));

/** x with `axis` in front of all others. */
export const toFront = (x: Value, axis: number) => {
  const others = x.shape.map((_, i) => i).filter((i) => i !== axis);
  return axis === 0 ? x : transpose(x, [axis, ...others]);
};

function reshaped(node: OnnxNode): Value {
  const x = node.input(0);
  const wanted = node.intsOrInput("shape", 1) ?? node.fail("has no shape");
  const keepsZeros = node.int("allowzero") === 1;
  const shape = wanted.map((extent, i) => (extent === 0 && !keepsZeros ? (x.shape[i] ?? 0) : extent));
  if (shape.filter((extent) => extent === -1).length > 1 || shape.some((extent) => extent < -1)) {
    return node.fail(`${showShape(wanted)} is no shape`);
  }
  const known = shape.reduce((product, extent) => (extent === -1 ? product : product * extent), 1);
  if (shape.includes(-1) && (known === 0 || sizeOf(x.shape) % known !== 0)) {
    return node.fail(`${showShape(x.shape)} does not become ${showShape(wanted)}`);
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
  if (wrong !== undefined) node.fail(`axis ${wrong} of ${showShape(x.shape)} is not 1`);
  return reshape(
    x,
    x.shape.filter((extent, axis) => (axes ? !axes.includes(axis) : extent !== 1)),
  );
}

function unsqueezed(node: OnnxNode): Value {
  const x = node.input(0);
  const given = node.intsOrInput("axes", 1) ?? node.fail("has no axes");
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
  const wanted = node.integers(1, "shape") ?? node.fail("has no shape");
  const shape = broadcastShapes(x.shape, wanted);
  return shape ? broadcastTo(x, shape) : node.fail(`${showShape(x.shape)} does not expand to ${showShape(wanted)}`);
}

function tiled(node: OnnxNode): Value {
  const x = node.input(0);
  const repeats = node.integers(1, "repeats") ?? node.fail("has no repeats");
  if (repeats.length !== x.shape.length) node.fail(`${showShape(repeats)} does not repeat ${showShape(x.shape)}`);
  const pairs = x.shape.flatMap((extent, i) => [repeats[i] as number, extent]);
  const apart = reshape(
    x,
    x.shape.flatMap((extent) => [1, extent]),
  );
  return reshape(
    broadcastTo(apart, pairs),
    x.shape.map((extent, i) => extent * (repeats[i] as number)),
  );
}

function sliced(node: OnnxNode): Value {
  const x = node.input(0);
  const starts = node.intsOrInput("starts", 1) ?? node.fail("has no starts");
  const ends = node.intsOrInput("ends", 2) ?? node.fail("has no ends");
  const axes = axesOf(node.intsOrInput("axes", 3) ?? starts.map((_, i) => i), x.shape.length, "Slice");
  const steps = node.integers(4, "steps") ?? starts.map(() => 1);
  if ([ends, axes, steps].some(({ length }) => length !== starts.length)) {
    node.fail("starts, ends, axes and steps are of different lengths");
  }
  return axes.reduce((part, axis, i) => {
    const extent = part.shape[axis] as number;
    const step = steps[i] as number;
    if (step === 0) node.fail("a step is 0");
    const from = (position: number) => (position < 0 ? position + extent : position);
    const [start, end] = [from(starts[i] as number), from(ends[i] as number)];
    const within = (position: number) => Math.min(Math.max(position, 0), extent);
    if (step > 0) return slice(part, axis, within(start), Math.max(within(start), within(end)), step);
    // Backwards is forwards on the flipped axis. An end below -extent means "through the first element".
    const first = within(extent - 1 - Math.min(start, extent - 1));
    const last = within(extent - 1 - Math.max(end, -1));
    return slice(flip(part, [axis]), axis, first, Math.max(first, last), -step);
  }, x);
}

function splitted(node: OnnxNode): Value[] {
  const x = node.input(0);
  const axis = node.axis("axis", 0, x.shape.length);
  const extent = x.shape[axis] as number;
  const parts = node.int("num_outputs") ?? node.outputs;
  const each = Math.ceil(extent / parts);
  const sizes =
    node.intsOrInput("split", 1) ??
    Array.from({ length: node.outputs }, (_, i) => Math.max(0, Math.min(each, extent - i * each)));
  if (sizes.some((size) => size < 0) || sizes.reduce((a, b) => a + b, 0) !== extent || sizes.length < node.outputs) {
    node.fail(`${showShape(sizes)} does not split axis ${axis} of ${showShape(x.shape)}`);
  }
  let start = 0;
  return sizes.map((size) => {
    start += size;
    return slice(x, axis, start - size, start);
  });
}

/** Rows of an axis by literal indices: a slice where they are a progression, whose gradient is a padding. */
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
  // The axes of the indices go back to where the axis was.
  const own = indices.shape.map((_, i) => i);
  const rest = x.shape.slice(1).map((_, i) => own.length + i);
  return transpose(rows, [...rest.slice(0, axis), ...own, ...rest.slice(axis)]);
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

/** Indices that may count from the end. */
export function positionsIn(indices: ArrayLike<number>, extent: number, node: OnnxNode): number[] {
  return Array.from(indices, (index) => {
    const position = index < 0 ? index + extent : index;
    return position >= 0 && position < extent ? position : node.fail(`index ${index} is outside an axis of ${extent}`);
  });
}

/** Slices by tuples of indices: x [d₁ … dₖ, rest], indices [..., k] → [..., rest]. */
function gatheredND(node: OnnxNode): Value {
  const [x, indices] = [node.input(0), node.input(1)];
  if ((node.int("batch_dims") ?? 0) !== 0) node.fail("batch_dims is not 0");
  const count = indices.shape.at(-1) ?? node.fail("has a scalar for indices");
  if (count > x.shape.length) node.fail(`${showShape(indices.shape)} has too many indices for ${showShape(x.shape)}`);
  const [indexed, rest] = [x.shape.slice(0, count), x.shape.slice(count)];
  const rows = reshape(x, [sizeOf(indexed), ...rest]);
  const ids = cast(indices, "int64");
  const counted = add(ids, mul(cast(less(ids, 0), "int64"), integers(indexed)));
  return gather(rows, sum(mul(counted, integers(stridesOf(indexed))), -1));
}

function padded(node: OnnxNode): Value {
  const x = node.input(0);
  const rank = x.shape.length;
  const amounts = node.ints("pads") ?? node.ints("paddings") ?? node.integers(1, "pads") ?? node.fail("has no pads");
  const axes = axesOf(node.integers(3, "axes") ?? x.shape.map((_, i) => i), rank, "Pad");
  if (amounts.length !== 2 * axes.length) node.fail(`${amounts.length} pads do not pad ${axes.length} axes`);
  const around = x.shape.map((): [number, number] => [0, 0]);
  for (const [i, axis] of axes.entries()) around[axis] = [amounts[i] as number, amounts[i + axes.length] as number];
  const mode = node.choice("mode", ["constant", "reflect", "edge", "wrap"], "constant");
  // Negative amounts cut off.
  const cut = around.reduce((part, [before, after], axis) => {
    const extent = part.shape[axis] as number;
    const [start, stop] = [Math.max(0, -before), extent - Math.max(0, -after)];
    return start <= stop ? slice(part, axis, start, stop) : node.fail("cuts off more than there is");
  }, x);
  const growth = around.map(([before, after]): [number, number] => [Math.max(0, before), Math.max(0, after)]);
  if (mode !== "constant") return extended(cut, growth, mode, node);
  const value = node.float("value") ?? node.number(2, "value") ?? 0;
  if (value === 0 && isFloating(x.dtype)) return pad(cut, growth);
  const inside = pad(cast(broadcastTo(constant([1], []), cut.shape), "float32"), growth);
  const spread = cast(pad(cast(cut, "float32"), growth), x.dtype);
  return where(cast(inside, "bool"), spread, constant([value], [], x.dtype));
}

/** Each output position takes the element that the mode mirrors, clamps or wraps it to. */
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
    if (extent === 0 || length > MOST_ELEMENTS) return node.fail(`cannot extend an axis of ${extent} to ${length}`);
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
    (what, i) => node.number(i, what) ?? node.fail(`has no ${what}`),
  ) as [number, number, number];
  const length = Math.max(0, Math.ceil((limit - start) / delta));
  if (!(length <= MOST_ELEMENTS)) node.fail(`would count from ${start} to ${limit} by ${delta}`);
  const { dtype } = node.input(0);
  return constant(
    Array.from({ length }, (_, i) => start + i * delta),
    [length],
    dtype,
  );
}

function constantOfShape(node: OnnxNode): Value {
  const shape = node.integers(0, "shape") ?? node.fail("has no shape");
  const value = node.tensor ?? constant([0], [1]);
  if (shape.some((extent) => extent < 0)) node.fail(`${showShape(shape)} is no shape`);
  return broadcastTo(reshape(value, []), shape);
}

function literal(node: OnnxNode): Value {
  const scalar = node.float("value_float");
  const whole = node.int("value_int");
  const [list, wholes] = [node.floats("value_floats"), node.ints("value_ints")];
  if (node.tensor) return node.tensor;
  if (scalar !== undefined) return constant([scalar], []);
  if (whole !== undefined) return constant([whole], [], "int64");
  if (list) return constant(list, [list.length]);
  return wholes ? integers(wholes) : node.fail("has no value of a kind that is supported: tensors and numbers");
}

/** The triangle of a matrix that `upper` names, `k` diagonals off: 1 inside and 0 outside. */
function triangle(rows: number, columns: number, k: number, upper: boolean, node: OnnxNode): Value {
  if (rows * columns > MOST_ELEMENTS) node.fail(`a triangle of ${rows}x${columns} is too large`);
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
  if (rows === undefined || columns === undefined) return node.fail(`${showShape(x.shape)} is no matrix`);
  const inside = triangle(rows, columns, node.integer(1, "k") ?? 0, node.int("upper") !== 0, node);
  return where(cast(inside, "bool"), x, constant([0], [], x.dtype));
}

/** Sums of all elements up to each, as a product with a triangle of ones. */
function cumulativeSum(node: OnnxNode): Value {
  const x = node.input(0);
  const axis = normalizeAxis(node.integer(1, "axis") ?? 0, x.shape.length, "CumSum");
  const extent = x.shape[axis] as number;
  const [exclusive, reverse] = [node.int("exclusive") === 1, node.int("reverse") === 1];
  const offset = exclusive ? 1 : 0;
  const weights = triangle(extent, extent, reverse ? offset : -offset, reverse, node);
  const rows = reshape(cast(toFront(x, axis), "float32"), [extent, -1]);
  const front = toFront(x, axis).shape;
  const back = reshape(matmul(weights, rows), front);
  const order = front.map((_, i) => (i < axis ? i + 1 : i === axis ? 0 : i));
  return cast(axis === 0 ? back : transpose(back, order), x.dtype);
}

function transposed(node: OnnxNode): Value {
  const x = node.input(0);
  return transpose(x, node.ints("perm") ?? x.shape.map((_, i) => x.shape.length - 1 - i));
}

/** Channels to pixels: x [b, c · s², h, w] → [b, c, h · s, w · s]. */
function depthToSpace(node: OnnxNode): Value {
  const x = node.input(0);
  const [b, c, h, w] = imageOf(x, node);
  const s = node.int("blocksize") ?? 1;
  const columnsFirst = node.choice("mode", ["DCR", "CRD"], "DCR") === "CRD";
  const depth = c / (s * s);
  const apart = reshape(x, columnsFirst ? [b, depth, s, s, h, w] : [b, s, s, depth, h, w]);
  return reshape(transpose(apart, columnsFirst ? [0, 1, 4, 2, 5, 3] : [0, 3, 4, 1, 5, 2]), [b, depth, h * s, w * s]);
}

function spaceToDepth(node: OnnxNode): Value {
  const x = node.input(0);
  const [b, c, h, w] = imageOf(x, node);
  const s = node.int("blocksize") ?? 1;
  const apart = reshape(x, [b, c, h / s, s, w / s, s]);
  return reshape(transpose(apart, [0, 3, 5, 1, 2, 4]), [b, c * s * s, h / s, w / s]);
}

export function imageOf({ shape }: Value, node: OnnxNode): [number, number, number, number] {
  return shape.length === 4
    ? (shape as unknown as [number, number, number, number])
    : node.fail(`${showShape(shape)} is not a batch of pictures with four axes`);
}

/** Slices replaced, or added to: x [d₁ … dₖ, rest], constant indices [..., k], updates [..., rest]. */
function scatteredND(node: OnnxNode): Value {
  const [x, updates] = [node.input(0), node.input(2)];
  const { shape } = x;
  const indices = node.integers(1, "indices") ?? [];
  const count = node.input(1).shape.at(-1) ?? node.fail("has a scalar for indices");
  if (!(count >= 1 && count <= shape.length)) node.fail(`has ${count} indices for each slice of ${showShape(shape)}`);
  const [indexed, rest] = [shape.slice(0, count), shape.slice(count)];
  const strides = stridesOf(indexed);
  const rows = Array.from({ length: indices.length / count }, (_, i) =>
    indexed.reduce((at, extent, axis) => {
      const [position] = positionsIn([indices[i * count + axis] as number], extent, node);
      return at + (position as number) * (strides[axis] as number);
    }, 0),
  );
  const size = sizeOf(indexed);
  if (size > MOST_ELEMENTS) node.fail(`${showShape(indexed)} are too many slices`);
  const placed = scatterRows(integers(rows), reshape(updates, [rows.length, ...rest]), size);
  const spread = reshape(placed, shape);
  if (node.choice("reduction", ["none", "add"], "none") === "add") return add(x, spread);
  if (new Set(rows).size !== rows.length) node.fail("replaces a slice twice");
  const replaced = new Float64Array(size);
  for (const row of rows) replaced[row] = 1;
  return where(constant(replaced, [...indexed, ...rest.map(() => 1)], "bool"), spread, x);
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
  const depth = node.integer(1, "depth") ?? node.fail("has no depth");
  const [off, on] = node.numbers(2, "values") ?? [];
  const ids = node.integers(0, "indices") ?? [];
  if (off === undefined || on === undefined || !(depth * ids.length <= MOST_ELEMENTS)) return node.fail("is too large");
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
  Split: splitted,
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
    if (shape.length !== 2) node.fail(`${showShape(shape)} is no matrix`);
    const k = node.int("k") ?? 0;
    const upTo = triangle(rows, columns, k, false, node);
    return cast(sub(upTo, triangle(rows, columns, k - 1, false, node)), dtype);
  },
};
