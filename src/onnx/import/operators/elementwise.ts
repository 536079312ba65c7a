/** Elementwise arithmetic, activations, comparisons and logic: https://onnx.ai/onnx/operators/ */
import type { Value } from "../../../graph/value.js";
import {
  abs,
  add,
  atan,
  broadcastTo,
  cast,
  constant,
  cos,
  div,
  equal,
  erf,
  exp,
  floor,
  greater,
  less,
  log,
  maximum,
  minimum,
  mul,
  neg,
  pow,
  power,
  remainder,
  reshape,
  round,
  sign,
  sin,
  sqrt,
  sub,
  tanh,
  where,
} from "../../../ops/index.js";
import { isFloating } from "../../../tensor/dtype.js";
import { numbersOf, type OnnxNode } from "../node.js";
import { valueType } from "./constants.js";
import { asFloat } from "./integers.js";
import type { Operator, Operators } from "./operator.js";

export const unary =
  (f: (x: Value) => Value): Operator =>
  (node) =>
    f(node.input(0));
const binary =
  (f: (x: Value, y: Value) => Value): Operator =>
  (node) =>
    f(node.input(0), node.input(1));
const folded =
  (f: (x: Value, y: Value) => Value): Operator =>
  (node) =>
    node.all().reduce(f);

const rounding =
  (f: (x: Value) => Value): Operator =>
  (node) => {
    const x = node.input(0);
    return node.throughRounding(f(x), x);
  };

/** log(x + √(x² + 1)), by symmetry for negative x, where the sum would cancel */
function asinh(x: Value): Value {
  const root = sqrt(add(mul(x, x), 1));
  return where(less(x, 0), neg(log(sub(root, minimum(x, 0)))), log(add(maximum(x, 0), root)));
}

/** asin x = atan(x / √(1 - x²)) */
const asin = (x: Value) => atan(div(x, sqrt(sub(1, mul(x, x)))));

const toFloat = (x: Value) => cast(x, "float32");
const not = (x: Value) => less(toFloat(x), 0.5);
const and = (x: Value, y: Value) => greater(mul(toFloat(x), toFloat(y)), 0.5);
const xor = (x: Value, y: Value) => not(equal(toFloat(x), toFloat(y)));

function toType(node: OnnxNode): Value {
  const to = node.int("to") ?? node.fail("the attribute to is missing");
  // Both concern 8-bit floating point, which is not supported.
  node.ignore("saturate", "round_mode");
  const [x, dtype] = [node.input(0), valueType(node, to)];
  return dtype === "float32" ? asFloat(node, x) : cast(x, dtype);
}

function clipped(node: OnnxNode): Value {
  const x = node.input(0);
  const bound = (name: string, index: number) => node.float(name) ?? node.number(index, name);
  const [low, high] = [bound("min", 1), bound("max", 2)];
  const raised = low === undefined ? x : maximum(x, low);
  return high === undefined ? raised : minimum(raised, high);
}

function raised(node: OnnxNode): Value {
  const [x, exponent] = [node.input(0), node.input(1)];
  const [base, constants] = [numbersOf(x), numbersOf(exponent)];
  const [first] = constants?.data ?? [];
  if (first !== undefined && constants?.data.every((value) => value === first)) {
    const y = pow(cast(x, "float32"), first);
    const shaped =
      exponent.shape.length > x.shape.length
        ? reshape(y, [...exponent.shape.slice(x.shape.length).fill(1), ...x.shape])
        : y;
    return cast(shaped, x.dtype);
  }
  // xᵃ = exp(a ln x)
  if (base?.data.every((value) => value > 0)) return exp(mul(cast(exponent, "float32"), log(x)));
  return cast(power(cast(x, "float32"), cast(exponent, "float32")), x.dtype);
}

/** x - n y with the sign of y, as in Python; with `fmod`, with the sign of x, as in C. */
function modulo(node: OnnxNode): Value {
  const [x, y] = [node.input(0), node.input(1)];
  const rest = remainder(x, y);
  if (node.int("fmod") === 1) return rest;
  const isOpposite = xor(less(rest, 0), less(y, 0));
  return where(and(not(equal(rest, 0)), isOpposite), add(rest, y), rest);
}

/** `onFloats` or `onIntegers`, by the type of the operand. */
const byType = (node: OnnxNode, onFloats: (x: Value) => Value, onIntegers: (x: Value) => Value) => {
  const x = node.input(0);
  return isFloating(x.dtype) ? onFloats(x) : onIntegers(x);
};

export const elementwise: Operators = {
  Add: binary(add),
  Sub: binary(sub),
  Mul: binary(mul),
  Div: binary(div),
  Pow: raised,
  Mod: modulo,
  Max: folded(maximum),
  Min: folded(minimum),
  Sum: folded(add),
  Mean: (node) => div(node.all().reduce(add), node.all().length),
  Neg: (node) => byType(node, neg, (x) => mul(x, -1)),
  Abs: (node) => byType(node, abs, (x) => maximum(x, mul(x, -1))),
  Sign: (node) => byType(node, sign, (x) => cast(sign(cast(x, "float32")), x.dtype)),
  Exp: unary(exp),
  Log: unary(log),
  Sqrt: unary(sqrt),
  Reciprocal: unary((x) => pow(x, -1)),
  Sin: unary(sin),
  Cos: unary(cos),
  Tan: unary((x) => div(sin(x), cos(x))),
  Tanh: unary(tanh),
  Sinh: unary((x) => mul(sub(exp(x), exp(neg(x))), 0.5)),
  Cosh: unary((x) => mul(add(exp(x), exp(neg(x))), 0.5)),
  Atan: unary(atan),
  Asin: unary(asin),
  Acos: unary((x) => sub(Math.PI / 2, asin(x))),
  Asinh: unary(asinh),
  Acosh: unary((x) => log(add(x, sqrt(sub(mul(x, x), 1))))),
  Atanh: unary((x) => mul(log(div(add(x, 1), sub(1, x))), 0.5)),
  Erf: unary(erf),
  Floor: rounding(floor),
  Ceil: rounding((x) => neg(floor(neg(x)))),
  Round: rounding(round),
  Clip: clipped,
  Greater: binary(greater),
  Less: binary(less),
  Equal: binary(equal),
  GreaterOrEqual: binary((x, y) => not(less(x, y))),
  LessOrEqual: binary((x, y) => not(greater(x, y))),
  Not: unary(not),
  And: binary(and),
  Or: binary((x, y) => greater(add(toFloat(x), toFloat(y)), 0.5)),
  Xor: binary(xor),
  IsNaN: unary((x) => not(equal(x, x))),
  IsInf: (node) => {
    const x = node.input(0);
    if (node.int("detect_positive") === 0) return equal(x, Number.NEGATIVE_INFINITY);
    return equal(node.int("detect_negative") === 0 ? x : abs(x), Number.POSITIVE_INFINITY);
  },
  Where: (node) => where(node.input(0), node.input(1), node.input(2)),
  Cast: toType,
  CastLike: (node) => {
    const code = node.elementType(1);
    if (code !== undefined) valueType(node, code);
    node.ignore("saturate", "round_mode");
    return cast(node.input(0), node.input(1).dtype);
  },
  Identity: unary((x) => x),
  // Inference drops nothing: the mask is all true.
  Dropout: (node) => {
    const x = node.input(0);
    const isTraining = node.number(2, "training_mode");
    if (isTraining && node.number(1, "ratio") !== 0) {
      node.fail("is in training mode, and therefore random. Export the model after model.eval()", { input: 2 });
    }
    node.ignore("ratio", "seed", 1);
    return [x, broadcastTo(constant([1], [], "bool"), x.shape)];
  },
};
