/** Operators that read or write slices and indices: https://onnx.ai/onnx/operators/ */
import type { Value } from "../../../graph/value.js";
import { add, cast, flip, gather, less, mul, reshape, slice, sum, transpose } from "../../../ops/index.js";
import { normalizeAxis, showShape, sizeOf, stridesOf } from "../../../tensor/shape.js";
import { integers, numbersOf, type OnnxNode } from "../node.js";
import type { Operators } from "./operator.js";

/** Limit on constants that are generated from a few numbers in a file, such as by Range. */
export const MAX_ELEMENTS = 2 ** 22;

export const axesOf = (axes: readonly number[], rank: number, who: string) =>
  axes.map((axis) => normalizeAxis(axis, rank, who));

/** x with `axis` moved to the front. */
export const toFront = (x: Value, axis: number) => {
  const others = x.shape.map((_, i) => i).filter((i) => i !== axis);
  return axis === 0 ? x : transpose(x, [axis, ...others]);
};

/** The inverse of `toFront`: the first axis of x becomes `axis`. */
export const fromFront = (x: Value, axis: number) => {
  const order = x.shape.map((_, i) => (i < axis ? i + 1 : i === axis ? 0 : i));
  return axis === 0 ? x : transpose(x, order);
};

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
    if (step > 0) return slice(part, axis, [within(start), Math.max(within(start), within(end))], { step });
    // A negative step is a positive one on the flipped axis. An end below -extent includes the first element.
    const first = within(extent - 1 - Math.min(start, extent - 1));
    const last = within(extent - 1 - Math.max(end, -1));
    return slice(flip(part, [axis]), axis, [first, Math.max(first, last)], { step: -step });
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
    return slice(x, axis, [start - size, start]);
  });
}

/** Gathers constant indices along an axis. An arithmetic progression becomes a slice, whose gradient is a cheap padding. */
export function take(x: Value, axis: number, indices: readonly number[]): Value {
  const [first = 0, second = first + 1] = indices;
  const step = second - first;
  if (indices.length > 0 && step > 0 && indices.every((index, i) => index === first + i * step)) {
    return slice(x, axis, [first, (indices.at(-1) as number) + 1], { step });
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
  if (!known) return gatherAlong(x, axis, fromStart(cast(indices, "int64"), x.shape[axis] as number));
  const positions = positionsIn(known.data, x.shape[axis] as number, node);
  const shape = [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)];
  return reshape(take(x, axis, positions), shape);
}

/** Indices that are not constant, as 0 … extent - 1. */
export const fromStart = (indices: Value, extent: number) => add(indices, mul(cast(less(indices, 0), "int64"), extent));

/** Indices as 0 … extent - 1. Negative ones count from the end. */
function positionsIn(indices: ArrayLike<number>, extent: number, node: OnnxNode): number[] {
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
  const batchAxes = node.int("batch_dims") ?? 0;
  const count = indices.shape.at(-1) ?? node.fail("indices are a scalar");
  if (count + batchAxes > x.shape.length)
    node.fail(`indices ${showShape(indices.shape)} have more columns than ${showShape(x.shape)} has axes`);
  const batch = sizeOf(x.shape.slice(0, batchAxes));
  const [indexed, rest] = [x.shape.slice(batchAxes, batchAxes + count), x.shape.slice(batchAxes + count)];
  const rows = reshape(x, [batch * sizeOf(indexed), ...rest]);
  const ids = cast(indices, "int64");
  const positions = add(ids, mul(cast(less(ids, 0), "int64"), integers(indexed)));
  const within = sum(mul(positions, integers(stridesOf(indexed))), -1);
  if (batchAxes === 0) return gather(rows, within);
  if (batch > MAX_ELEMENTS) node.fail(`${showShape(x.shape)} has too many batches`);
  const first = Array.from({ length: batch }, (_, i) => i * sizeOf(indexed));
  const places = add(reshape(within, [batch, -1]), reshape(integers(first), [batch, 1]));
  return gather(rows, reshape(places, indices.shape.slice(0, -1)));
}

export const indexing: Operators = {
  Slice: sliced,
  Split: split,
  Gather: gathered,
  GatherND: gatheredND,
};
