/** Ops on each element, with NumPy's broadcasting. */
import { apply1, CONTRIB, type F64Array, type OpDef, showType, type TensorType, type Value } from "../graph/value.js";
import { type DType, isFloating } from "../tensor/dtype.js";
import { broadcastShapes, type Shape, sizeOf, stridesOf } from "../tensor/shape.js";
import { constant } from "./source.js";

/** A number becomes a scalar constant of the other operand's type. */
export type Operand = Value | number;

export type NoAttrs = Record<string, never>;
const NONE: NoAttrs = {};

/** For each element of shape `out`, the offset of the element of shape `shape` that broadcasts to it. */
export function broadcastOffsets(shape: Shape, out: Shape): Int32Array {
  const offsets = new Int32Array(sizeOf(out));
  const strides = stridesOf(shape);
  const lead = out.length - shape.length;
  const step = out.map((_, axis) => (axis < lead || shape[axis - lead] === 1 ? 0 : (strides[axis - lead] as number)));
  const index = new Int32Array(out.length);
  let offset = 0;
  for (let i = 0; i < offsets.length; i++) {
    offsets[i] = offset;
    for (let axis = out.length - 1; axis >= 0; axis--) {
      index[axis] = (index[axis] as number) + 1;
      offset += step[axis] as number;
      if ((index[axis] as number) < (out[axis] as number)) break;
      offset -= (step[axis] as number) * (out[axis] as number);
      index[axis] = 0;
    }
  }
  return offsets;
}

export function unary(name: string, onnx: string, f: (x: number) => number): OpDef<NoAttrs> {
  return {
    name,
    infer: ([x]) => {
      if (!x || !isFloating(x.dtype))
        throw new TypeError(`${name}: expects a floating point tensor, but got ${x ? showType(x) : "none"}`);
      return [x];
    },
    emit: (w, [x]) => w.node(onnx, [x as string]),
    evaluate: ([x]) => [{ shape: (x as F64Array).shape, data: (x as F64Array).data.map(f) }],
  };
}

export function binary(
  name: string,
  onnx: string,
  f: (x: number, y: number) => number,
  result?: DType,
): OpDef<NoAttrs> {
  return {
    name,
    infer: ([x, y]) => {
      const { dtype, shape } = broadcastTypes(name, x as TensorType, y as TensorType);
      return [{ shape, dtype: result ?? dtype }];
    },
    emit: (w, inputs) => w.node(onnx, inputs),
    evaluate: ([x, y], node) => {
      const shape = (node.outputs[0] as Value).shape;
      const [p, q] = [broadcastOffsets((x as F64Array).shape, shape), broadcastOffsets((y as F64Array).shape, shape)];
      const data = Float64Array.from(p, (offset, i) =>
        f((x as F64Array).data[offset] as number, (y as F64Array).data[q[i] as number] as number),
      );
      return [{ shape, data }];
    },
  };
}

function broadcastTypes(who: string, x: TensorType, y: TensorType): TensorType {
  const shape = broadcastShapes(x.shape, y.shape);
  if (!shape || x.dtype !== y.dtype) {
    throw new TypeError(`${who}: ${showType(x)} and ${showType(y)} do not broadcast or differ in type`);
  }
  return { shape, dtype: x.dtype };
}

/**
 * erf in float64 precision: a power series near 0 (DLMF 7.6.1), the continued fraction of erfc elsewhere (DLMF 7.9.1).
 */
function erf64(x: number): number {
  const z = Math.abs(x);
  if (z < 2.5) {
    let term = z;
    let total = z;
    for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(total); n++) {
      term *= (-z * z) / n;
      total += term / (2 * n + 1);
    }
    return (Math.sign(x) * 2 * total) / Math.sqrt(Math.PI);
  }
  if (z > 6) return Math.sign(x);
  let fraction = 0;
  for (let n = 120; n > 0; n--) fraction = n / 2 / (z + fraction);
  return Math.sign(x) * (1 - Math.exp(-z * z) / Math.sqrt(Math.PI) / (z + fraction));
}

const sigmoid64 = (x: number) => 1 / (1 + Math.exp(-x));

export const addOp = binary("add", "Add", (x, y) => x + y);
export const subOp = binary("sub", "Sub", (x, y) => x - y);
export const mulOp = binary("mul", "Mul", (x, y) => x * y);
const floatDiv = binary("div", "Div", (x, y) => x / y);
/** Integer division truncates towards zero. */
export const divOp: OpDef<NoAttrs> = {
  ...floatDiv,
  evaluate: (inputs, node) => {
    const [quotient] = floatDiv.evaluate(inputs, node) as [F64Array];
    const isInteger = !isFloating((node.outputs[0] as Value).dtype);
    return [isInteger ? { shape: quotient.shape, data: quotient.data.map(Math.trunc) } : quotient];
  },
};
export const maximumOp = binary("maximum", "Max", Math.max);
export const minimumOp = binary("minimum", "Min", Math.min);
export const greaterOp = binary("greater", "Greater", (x, y) => (x > y ? 1 : 0), "bool");
export const lessOp = binary("less", "Less", (x, y) => (x < y ? 1 : 0), "bool");
export const equalOp = binary("equal", "Equal", (x, y) => (x === y ? 1 : 0), "bool");
export const negOp = unary("neg", "Neg", (x) => -x);
export const expOp: OpDef<NoAttrs> = { ...unary("exp", "Exp", Math.exp), autocast: "float32" };
export const logOp: OpDef<NoAttrs> = { ...unary("log", "Log", Math.log), autocast: "float32" };
export const sqrtOp = unary("sqrt", "Sqrt", Math.sqrt);
export const floorOp = unary("floor", "Floor", Math.floor);
export const atanOp = unary("atan", "Atan", Math.atan);
export const absOp = unary("abs", "Abs", Math.abs);
export const signOp = unary("sign", "Sign", Math.sign);
export const tanhOp = unary("tanh", "Tanh", Math.tanh);
export const sigmoidOp = unary("sigmoid", "Sigmoid", sigmoid64);
export const erfOp = unary("erf", "Erf", erf64);
export const sinOp = unary("sin", "Sin", Math.sin);
export const cosOp = unary("cos", "Cos", Math.cos);
/** x Φ(x), where Φ is the standard normal distribution function (Hendrycks & Gimpel 2016). */
export const geluOp = unary("gelu", "Gelu", (x) => (x * (1 + erf64(x / Math.SQRT2))) / 2);

/**
 * x σ(x) (Elfwing et al. 2017). It is one operator rather than a product with Sigmoid: ONNX Runtime would merge that
 * Sigmoid with the one in the gradient, and keep its output in memory from the forward to the backward pass.
 */
export const siluOp: OpDef<NoAttrs> = {
  ...unary("silu", "", (x) => x * sigmoid64(x)),
  emit: (w, [x]) => w.node(`${CONTRIB}.QuickGelu`, [x as string], { alpha: { float: 1 } }),
};

export const powOp: OpDef<{ readonly exponent: number }> = {
  name: "pow",
  autocast: "float32",
  infer: ([x]) => [x as TensorType],
  emit: (w, [x], { attrs: { exponent }, outputs }) => {
    const base = x as string;
    if (exponent === 2) return w.node("Mul", [base, base]);
    if (exponent === -1) return w.node("Reciprocal", [base]);
    if (exponent === -0.5) return w.node("Reciprocal", w.node("Sqrt", [base]));
    return w.node("Pow", [base, w.tensor([exponent], [], (outputs[0] as Value).dtype)]);
  },
  evaluate: ([x], { attrs }) => [
    { shape: (x as F64Array).shape, data: (x as F64Array).data.map((value) => value ** attrs.exponent) },
  ],
};

/** x to the power of y, element by element. */
export const powerOp: OpDef<NoAttrs> = { ...binary("power", "Pow", (x, y) => x ** y), autocast: "float32" };

export const whereOp: OpDef<NoAttrs> = {
  name: "where",
  infer: ([condition, x, y]) => {
    const values = broadcastTypes("where", x as TensorType, y as TensorType);
    const shape = broadcastShapes((condition as TensorType).shape, values.shape);
    if (!shape || condition?.dtype !== "bool") {
      throw new TypeError(
        `where: condition ${showType(condition as TensorType)} must be bool and broadcast with ${showType(values)}`,
      );
    }
    return [{ shape, dtype: values.dtype }];
  },
  emit: (w, inputs, { outputs }) => {
    if ((outputs[0] as Value).dtype !== "int8") return w.node("Where", inputs);
    // ONNX Runtime has no Where for int8.
    const [condition, x, y] = inputs as [string, string, string];
    const wide = [x, y].map((name) => w.node("Cast", [name], { to: ONNX_TYPE.int32 })[0] as string);
    return w.node("Cast", w.node("Where", [condition, ...wide]), { to: ONNX_TYPE.int8 });
  },
  evaluate: (inputs, node) => {
    const shape = (node.outputs[0] as Value).shape;
    const [c, x, y] = inputs.map((array) => ({ data: array.data, at: broadcastOffsets(array.shape, shape) }));
    if (!c || !x || !y) throw new TypeError("where: expects three inputs");
    const pick = (array: { data: Float64Array; at: Int32Array }, i: number) =>
      array.data[array.at[i] as number] as number;
    return [{ shape, data: Float64Array.from({ length: sizeOf(shape) }, (_, i) => pick(pick(c, i) ? x : y, i)) }];
  },
};

/** The codes of ONNX's TensorProto.DataType. */
export const ONNX_TYPE: Record<DType, number> = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  float64: 11,
  bfloat16: 16,
};

export const castOp: OpDef<{ readonly dtype: DType }> = {
  name: "cast",
  infer: ([x], { dtype }) => [{ shape: (x as TensorType).shape, dtype }],
  emit: (w, [x], { attrs }) => w.node("Cast", [x as string], { to: ONNX_TYPE[attrs.dtype] }),
  evaluate: ([x], { attrs }) => {
    const { shape, data } = x as F64Array;
    if (isFloating(attrs.dtype)) return [{ shape, data }];
    return [{ shape, data: data.map((value) => (attrs.dtype === "bool" ? Number(value !== 0) : Math.trunc(value))) }];
  },
};

function lift(x: Operand, like: Operand): Value {
  if (typeof x !== "number") return x;
  return constant([x], [], typeof like === "number" ? "float32" : like.dtype);
}

export function pair(op: OpDef<NoAttrs>, x: Operand, y: Operand): Value {
  return apply1(op, [lift(x, y), lift(y, x)], NONE);
}

export const add = (x: Operand, y: Operand): Value => pair(addOp, x, y);
export const sub = (x: Operand, y: Operand): Value => pair(subOp, x, y);
export const mul = (x: Operand, y: Operand): Value => pair(mulOp, x, y);
export const div = (x: Operand, y: Operand): Value => pair(divOp, x, y);
export const maximum = (x: Operand, y: Operand): Value => pair(maximumOp, x, y);
export const minimum = (x: Operand, y: Operand): Value => pair(minimumOp, x, y);
export const greater = (x: Operand, y: Operand): Value => pair(greaterOp, x, y);
export const less = (x: Operand, y: Operand): Value => pair(lessOp, x, y);
export const equal = (x: Operand, y: Operand): Value => pair(equalOp, x, y);
export const neg = (x: Value): Value => apply1(negOp, [x], NONE);
export const exp = (x: Value): Value => apply1(expOp, [x], NONE);
export const log = (x: Value): Value => apply1(logOp, [x], NONE);
export const sqrt = (x: Value): Value => apply1(sqrtOp, [x], NONE);
export const floor = (x: Value): Value => apply1(floorOp, [x], NONE);
export const atan = (x: Value): Value => apply1(atanOp, [x], NONE);
/** x to the power of y. For a constant exponent, `pow` is cheaper. */
export const power = (x: Operand, y: Operand): Value => pair(powerOp, x, y);
export const abs = (x: Value): Value => apply1(absOp, [x], NONE);
export const sign = (x: Value): Value => apply1(signOp, [x], NONE);
export const tanh = (x: Value): Value => apply1(tanhOp, [x], NONE);
export const sigmoid = (x: Value): Value => apply1(sigmoidOp, [x], NONE);
export const erf = (x: Value): Value => apply1(erfOp, [x], NONE);
export const sin = (x: Value): Value => apply1(sinOp, [x], NONE);
export const cos = (x: Value): Value => apply1(cosOp, [x], NONE);
export const gelu = (x: Value): Value => apply1(geluOp, [x], NONE);
export const silu = (x: Value): Value => apply1(siluOp, [x], NONE);
export const pow = (x: Value, exponent: number): Value => apply1(powOp, [x], { exponent });
export const relu = (x: Value): Value => maximum(x, 0);
export const clip = (x: Value, low: number, high: number): Value => minimum(maximum(x, low), high);

/** x σ(1.702 x), the approximation of GELU in OpenAI's CLIP. */
export const quickGelu = (x: Value): Value => mul(x, sigmoid(mul(x, 1.702)));

/** Elements of `x` where `condition` (bool) is true, elsewhere those of `y`. All three broadcast. */
export function where(condition: Value, x: Operand, y: Operand): Value {
  return apply1(whereOp, [condition, lift(x, y), lift(y, x)], NONE);
}

export function cast(x: Value, dtype: DType): Value {
  return x.dtype === dtype ? x : apply1(castOp, [x], { dtype });
}
