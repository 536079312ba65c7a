/** Operators that generate constants, shapes and triangular matrices: https://onnx.ai/onnx/operators/ */
import type { Value } from "../../../graph/value.js";
import {
  broadcastTo,
  cast,
  concat,
  constant,
  flip,
  matmul,
  mul,
  reshape,
  slice,
  sub,
  transpose,
  where,
} from "../../../ops/index.js";
import { type DType, isFloating } from "../../../tensor/dtype.js";
import { normalizeAxis, showShape, sizeOf, stridesOf } from "../../../tensor/shape.js";
import { dtypeOf, isCastTarget, typeName } from "../element-types.js";
import { integers, type OnnxNode } from "../node.js";
import { fromFront, MAX_ELEMENTS, toFront } from "./indexing.js";
import type { Operators } from "./operator.js";
import { repeated } from "./repeated.js";

/** The type that values of an ONNX type are computed in. */
export function valueType(node: OnnxNode, code: number): DType {
  const dtype =
    (isCastTarget(code) && dtypeOf(code)) ||
    node.fail(`the type ${typeName(code)} is not supported`, { found: typeName(code) });
  return isFloating(dtype) ? "float32" : dtype;
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

/** The cumulative product: each pass doubles the number of elements that every product covers. */
function cumulativeProduct(node: OnnxNode): Value {
  const x = node.input(0);
  const axis = normalizeAxis(node.integer(1, "axis") ?? 0, x.shape.length, "CumProd");
  const [exclusive, reverse] = [node.int("exclusive") === 1, node.int("reverse") === 1];
  const front = toFront(reverse ? flip(x, [axis]) : x, axis);
  const [extent, ...rest] = front.shape as [number, ...number[]];
  const delayed = (y: Value, by: number) =>
    by >= extent
      ? repeated(front.shape, 1, x.dtype)
      : concat([repeated([by, ...rest], 1, x.dtype), slice(y, 0, [0, extent - by])], 0);
  let y = exclusive ? delayed(front, 1) : front;
  for (let step = 1; step < extent; step *= 2) y = mul(y, delayed(y, step));
  const back = fromFront(y, axis);
  return reverse ? flip(back, [axis]) : back;
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
  return cast(fromFront(back, axis), x.dtype);
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

export const constants: Operators = {
  Shape: shapeOf,
  Size: (node) => constant([sizeOf(node.input(0).shape)], [], "int64"),
  Constant: literal,
  ConstantOfShape: constantOfShape,
  Range: range,
  NonZero: nonZero,
  OneHot: oneHot,
  Trilu: triangular,
  CumSum: cumulativeSum,
  CumProd: cumulativeProduct,
  EyeLike: (node) => {
    const { shape, dtype: own } = node.input(0);
    const code = node.int("dtype");
    const dtype = code === undefined ? own : valueType(node, code);
    const [rows, columns] = shape as [number, number];
    if (shape.length !== 2) node.fail(`${showShape(shape)} is not a matrix`);
    const k = node.int("k") ?? 0;
    const upTo = (k: number) => triangle(node, { rows, columns, k, upper: false });
    return cast(sub(upTo(k), upTo(k - 1)), dtype);
  },
};
