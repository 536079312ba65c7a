/** Operators that write elements or slices at indices: https://onnx.ai/onnx/operators/onnx__ScatterND.html */
import type { Value } from "../../../graph/value.js";
import {
  add,
  cast,
  constant,
  gather,
  greater,
  maximum,
  minimum,
  mul,
  pad,
  reshape,
  scatterElements,
  scatterRows,
  slice,
  transpose,
  where,
} from "../../../ops/index.js";
import { type Shape, showShape, sizeOf, stridesOf } from "../../../tensor/shape.js";
import { integers, numbersOf, type OnnxNode } from "../node.js";
import { axesOf, fromStart, MAX_ELEMENTS, take } from "./indexing.js";
import type { Operators } from "./operator.js";
import { repeated } from "./repeated.js";

const REDUCTIONS = ["none", "add", "mul", "max", "min"] as const;
type Reduction = (typeof REDUCTIONS)[number];

const COMBINE: Readonly<Record<Reduction, (x: Value, update: Value) => Value>> = {
  none: (_, update) => update,
  add,
  mul,
  max: maximum,
  min: minimum,
};

/** Writes the rows of updates [n, ...] into rows [m, ...] at constant places, several of which may be the same. */
function writeRows(node: OnnxNode, rows: Value, updates: Value, places: readonly number[]): Value {
  const reduction = node.choice("reduction", REDUCTIONS, "none");
  const [m, ...rest] = rows.shape as [number, ...number[]];
  if (m > MAX_ELEMENTS) node.fail(`${showShape(rows.shape)} has too many slices`);
  if (places.length === 0) return rows;
  if (reduction === "add") return add(rows, scatterRows(integers(places), updates, m));
  // Each pass writes to a place at most once.
  const passes: number[][] = [];
  const seen = new Map<number, number>();
  for (const [i, place] of places.entries()) {
    const pass = seen.get(place) ?? 0;
    seen.set(place, pass + 1);
    const own = passes[pass];
    if (own) own.push(i);
    else passes[pass] = [i];
  }
  if (reduction === "none" && passes.length > 1) node.fail("replaces one element twice");
  if (passes.length > 256) node.fail("writes to one element more than 256 times");
  return passes.reduce((written, pass) => {
    const own = pass.map((i) => places[i] as number);
    const placed = scatterRows(integers(own), passes.length === 1 ? updates : take(updates, 0, pass), m);
    const isHit = new Float64Array(m);
    for (const place of own) isHit[place] = 1;
    const mask = constant(isHit, [m, ...rest.map(() => 1)], "bool");
    return where(mask, COMBINE[reduction](written, placed), written);
  }, rows);
}

/** The same with places [n] that are not constant. ONNX forbids equal ones without a reduction. */
function writeVariable(node: OnnxNode, rows: Value, updates: Value, places: Value): Value {
  const reduction = node.choice("reduction", REDUCTIONS, "none");
  const [m, ...rest] = rows.shape as [number, ...number[]];
  const placed = scatterRows(places, updates, m);
  if (reduction === "add") return add(rows, placed);
  if (reduction !== "none") {
    node.fail(`reduces by ${reduction} at indices that depend on the image, which is not supported`, {
      attribute: "reduction",
      found: reduction,
    });
  }
  const hits = scatterRows(places, repeated([places.shape[0] as number, ...rest.map(() => 1)], 1), m);
  return where(greater(hits, 0.5), placed, rows);
}

/** x [d₁ … dₖ, rest], indices [..., k], updates [..., rest] → like x */
function scatteredND(node: OnnxNode): Value {
  const [x, indices, updates] = [node.input(0), node.input(1), node.input(2)];
  const { shape } = x;
  const count = indices.shape.at(-1) ?? node.fail("indices are a scalar");
  if (!(count >= 1 && count <= shape.length)) {
    node.fail(`has ${count} indices per slice of ${showShape(shape)}, but needs from 1 to ${shape.length}`);
  }
  const [indexed, rest] = [shape.slice(0, count), shape.slice(count)];
  const strides = stridesOf(indexed);
  const rows = reshape(x, [sizeOf(indexed), ...rest]);
  const flat = reshape(updates, [sizeOf(indices.shape.slice(0, -1)), ...rest]);
  const known = numbersOf(indices)?.data;
  if (known) {
    const places = Array.from({ length: known.length / count }, (_, i) =>
      indexed.reduce((at, extent, axis) => {
        return at + placeOf(node, known[i * count + axis] as number, extent) * (strides[axis] as number);
      }, 0),
    );
    return reshape(writeRows(node, rows, flat, places), shape);
  }
  const ids = cast(indices, "int64");
  const columns = indexed.map((extent, axis) =>
    mul(fromStart(slice(ids, ids.shape.length - 1, [axis, axis + 1]), extent), strides[axis] as number),
  );
  const places = reshape(columns.reduce(add), [-1]);
  return reshape(writeVariable(node, rows, flat, places), shape);
}

function placeOf(node: OnnxNode, index: number, extent: number): number {
  const place = index < 0 ? index + extent : index;
  if (place >= 0 && place < extent) return place;
  return node.fail(`the index ${index} is out of range for an axis of length ${extent}`);
}

/** y[indices[i, j], j] = updates[i, j] for axis 0 */
function scatteredElements(node: OnnxNode): Value {
  const [x, indices, updates] = [node.input(0), node.input(1), node.input(2)];
  const { shape } = x;
  const axis = node.axis("axis", 0, shape.length);
  const known = numbersOf(indices);
  if (known) {
    const [own, strides] = [stridesOf(known.shape), stridesOf(shape)];
    const places = Array.from(known.data, (index, i) =>
      strides.reduce((at, stride, other) => {
        const position = Math.floor(i / (own[other] as number)) % (known.shape[other] as number);
        return at + stride * (other === axis ? placeOf(node, index, shape[axis] as number) : position);
      }, 0),
    );
    return reshape(writeRows(node, reshape(x, [-1]), reshape(updates, [-1]), places), shape);
  }
  const reduction = node.choice("reduction", ["none", "add"], "none");
  const places = fromStart(cast(indices, "int64"), shape[axis] as number);
  const placed = scatterElements(places, updates, shape, axis);
  if (reduction === "add") return add(x, placed);
  const hits = scatterElements(places, repeated(indices.shape, 1), shape, axis);
  return where(greater(hits, 0.5), placed, x);
}

/** Keeps the slices, or without an axis the elements, whose condition is true. */
function compressed(node: OnnxNode): Value {
  const given = node.int("axis");
  const x = given === undefined ? reshape(node.input(0), [-1]) : node.input(0);
  const axis = node.axis("axis", 0, x.shape.length);
  const conditions = node.numbers(1, "condition") ?? [];
  const kept = conditions.flatMap((value, i) => (value === 0 ? [] : [i]));
  return take(x, axis, kept);
}

/** Reverses the first elements of each sequence along an axis. */
function reversedSequence(node: OnnxNode): Value {
  const x = node.input(0);
  const [time, batch] = [node.axis("time_axis", 0, x.shape.length), node.axis("batch_axis", 1, x.shape.length)];
  const lengths = node.integers(1, "sequence_lens") ?? [];
  const others = x.shape.map((_, axis) => axis).filter((axis) => axis !== time && axis !== batch);
  const order = [time, batch, ...others];
  const front = transpose(x, order);
  const [t, b, ...rest] = front.shape as [number, number, ...number[]];
  if (t * b > MAX_ELEMENTS) node.fail(`${showShape(x.shape)} has too many steps`);
  const places = Array.from({ length: t * b }, (_, at) => {
    const [step, sample] = [Math.floor(at / b), at % b];
    const length = lengths[sample] ?? 0;
    return (step < length ? length - 1 - step : step) * b + sample;
  });
  const rows = gather(reshape(front, [t * b, ...rest]), integers(places));
  return transpose(
    reshape(rows, front.shape),
    x.shape.map((_, axis) => order.indexOf(axis)),
  );
}

/** Crops or pads with zeros around the center. */
function centerCropPad(node: OnnxNode): Value {
  const x = node.input(0);
  const wanted = node.integers(1, "shape") ?? [];
  const axes = axesOf(node.ints("axes") ?? x.shape.map((_, axis) => axis), x.shape.length, "CenterCropPad");
  if (wanted.length !== axes.length) node.fail(`has ${wanted.length} sizes for ${axes.length} axes`);
  return axes.reduce((y, axis, i) => {
    const [extent, size] = [y.shape[axis] as number, wanted[i] as number];
    const start = Math.floor(Math.abs(extent - size) / 2);
    if (size <= extent) return slice(y, axis, [start, start + size]);
    return pad(
      y,
      y.shape.map((_, other): [number, number] => (other === axis ? [start, size - extent - start] : [0, 0])),
    );
  }, x);
}

/** Adds up blocks [b, c · taps, blocks] at their places in an image (torch.nn.Fold). */
function columnsToImage(node: OnnxNode): Value {
  const x = node.ranked(0, 3);
  const [image, block] = [node.integers(1, "image_shape") ?? [], node.integers(2, "block_shape") ?? []];
  const axes = image.length;
  const strides = node.ints("strides") ?? image.map(() => 1);
  const dilations = node.ints("dilations") ?? image.map(() => 1);
  const pads = node.ints("pads") ?? new Array<number>(2 * axes).fill(0);
  if (![block, strides, dilations].every(({ length }) => length === axes) || pads.length !== 2 * axes || axes === 0) {
    node.fail(`block_shape, strides, dilations or pads do not fit ${axes} axes`);
  }
  const [b, channels, blocks] = x.shape as [number, number, number];
  const taps = sizeOf(block);
  const padded = image.map((extent, axis) => extent + (pads[axis] as number) + (pads[axis + axes] as number));
  const counts = padded.map((extent, axis) => {
    const reach = (dilations[axis] as number) * ((block[axis] as number) - 1) + 1;
    return Math.floor((extent - reach) / (strides[axis] as number)) + 1;
  });
  if (
    sizeOf(counts) !== blocks ||
    channels % taps !== 0 ||
    !(sizeOf(padded) <= MAX_ELEMENTS && taps * blocks <= MAX_ELEMENTS)
  ) {
    node.fail(`its blocks ${showShape(x.shape)} do not fit an image of ${showShape(image)}`);
  }
  const along = (at: number, shape: Shape, axis: number) =>
    Math.floor(at / (stridesOf(shape)[axis] as number)) % (shape[axis] as number);
  const places = Array.from({ length: taps * blocks }, (_, i) => {
    const [tap, position] = [Math.floor(i / blocks), i % blocks];
    return padded.reduce(
      (at, extent, axis) =>
        at * extent +
        along(position, counts, axis) * (strides[axis] as number) +
        along(tap, block, axis) * (dilations[axis] as number),
      0,
    );
  });
  const c = channels / taps;
  const rows = reshape(transpose(reshape(x, [b, c, taps * blocks]), [2, 0, 1]), [taps * blocks, b * c]);
  const placed = transpose(reshape(scatterRows(integers(places), rows, sizeOf(padded)), [-1, b, c]), [1, 2, 0]);
  return image.reduce(
    (y, extent, axis) => slice(y, axis + 2, [pads[axis] as number, (pads[axis] as number) + extent]),
    reshape(placed, [b, c, ...padded]),
  );
}

export const scattering: Operators = {
  ScatterND: scatteredND,
  ScatterElements: scatteredElements,
  Scatter: scatteredElements,
  Compress: compressed,
  ReverseSequence: reversedSequence,
  CenterCropPad: centerCropPad,
  Col2Im: columnsToImage,
};
