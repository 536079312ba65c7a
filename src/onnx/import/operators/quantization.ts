/**
 * Quantized tensors and operators: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
 *
 * A quantized tensor is held as float32 with the values of its integers. Rounding passes the gradient (the straight-through
 * estimator, Bengio et al. 2013), and values beyond the range have none. So a quantized model has the gradient that
 * quantization-aware training would use.
 */
import type { Value } from "../../../graph/value.js";
import {
  add,
  broadcastTo,
  cast,
  concat,
  div,
  equal,
  greater,
  matmul,
  max,
  maximum,
  mean,
  minimum,
  mul,
  reshape,
  round,
  sigmoid,
  slice,
  softmax,
  straightThrough,
  sub,
  where,
} from "../../../ops/index.js";
import { showShape } from "../../../tensor/shape.js";
import { rangeOf, typeName } from "../element-types.js";
import { numbersOf, type OnnxNode } from "../node.js";
import { convolve } from "./convolution.js";
import { asFloat } from "./integers.js";
import type { Operators } from "./operator.js";
import { averageOf } from "./pooling.js";

const UINT8 = 2;
const INT8 = 3;

/** Integers of any type as float32. */
export const plain = (x: Value): Value => cast(x, "float32");

/** A scale or zero point of one element, one per position of an axis, or one per block of `block` positions, to broadcast to x. */
function spread(node: OnnxNode, parameter: Value, x: Value): Value {
  const { shape } = x;
  const axis = shape.length === 0 ? 0 : node.axis("axis", Math.min(1, shape.length - 1), shape.length);
  const block = node.int("block_size") ?? 0;
  const given = plain(parameter);
  if (block > 0) {
    const blocks = given.shape[axis] ?? node.fail(`block_size is ${block}, but the scale is ${showShape(given.shape)}`);
    const extent = shape[axis] as number;
    const before = given.shape.slice(0, axis);
    const after = given.shape.slice(axis + 1);
    const repeated = broadcastTo(reshape(given, [...before, blocks, 1, ...after]), [
      ...before,
      blocks,
      block,
      ...after,
    ]);
    return slice(reshape(repeated, [...before, blocks * block, ...after]), axis, [0, extent]);
  }
  if (given.shape.length === 0 || (given.shape.length === 1 && given.shape[0] === 1)) return reshape(given, []);
  if (given.shape.length !== 1 || given.shape[0] !== shape[axis]) {
    return node.fail(`its scale ${showShape(given.shape)} does not fit axis ${axis} of ${showShape(shape)}`);
  }
  return reshape(given, [-1, ...shape.slice(axis + 1).map(() => 1)]);
}

/** clip(round(x / scale) + zero point) in the range of an integer type */
function quantize(x: Value, scale: Value, zero: Value | undefined, [low, high]: readonly [number, number]): Value {
  const scaled = div(x, scale);
  const whole = numbersOf(x) ? round(scaled) : straightThrough(round(scaled), scaled);
  return minimum(maximum(zero ? add(whole, zero) : whole, low), high);
}

/** (q - zero point) · scale */
const dequantize = (q: Value, scale: Value, zero: Value | undefined): Value =>
  mul(zero ? sub(plain(q), zero) : plain(q), scale);

/** The range of the type of a zero point, or of `otherwise` if there is none. */
function rangeFor(node: OnnxNode, zeroPoint: number, otherwise: number): readonly [number, number] {
  const zero = node.optional(zeroPoint);
  // Of what nodes compute, the type is known for the two usual ones.
  const own = zero?.dtype === "int8" ? INT8 : zero?.dtype === "uint8" ? UINT8 : undefined;
  const code = zero ? (node.elementType(zeroPoint) ?? own) : otherwise;
  const found = code === undefined ? "unknown" : typeName(code);
  return (
    (code === undefined ? undefined : rangeOf(code)) ??
    node.fail(`quantizes to the type ${found}, which is not supported. Quantize to int8 or uint8`, { found })
  );
}

function quantizeLinear(node: OnnxNode): Value {
  const x = asFloat(node, node.input(0));
  // The types of the division and of a cast to 8-bit floating point.
  node.ignore("saturate", "precision");
  const range = rangeFor(node, 2, node.int("output_dtype") || UINT8);
  const zero = node.optional(2);
  return quantize(x, spread(node, node.input(1), x), zero && spread(node, zero, x), range);
}

function dequantizeLinear(node: OnnxNode): Value {
  const [q, zero] = [asFloat(node, node.input(0)), node.optional(2)];
  node.ignore("output_dtype");
  return dequantize(q, spread(node, node.input(1), q), zero && spread(node, zero, q));
}

/** Scale and zero point of a tensor, of its rows (of a left operand) or of its columns. */
interface Affine {
  readonly scale: Value;
  readonly zero: Value | undefined;
}

/** Inputs `at` and `at + 1`. A vector belongs to the axis `axis` of `rank`, counted from the end. */
function affine(node: OnnxNode, at: number, fromEnd = 1): Affine {
  const shaped = (value: Value) =>
    value.shape.length === 1 && value.shape[0] !== 1
      ? reshape(plain(value), [-1, ...new Array<number>(fromEnd - 1).fill(1)])
      : value.shape.length <= 1
        ? reshape(plain(value), [])
        : plain(value);
  const zero = node.optional(at + 1);
  return { scale: shaped(node.input(at)), zero: zero && shaped(zero) };
}

const real = (q: Value, { scale, zero }: Affine): Value => dequantize(q, scale, zero);

function qLinearMatMul(node: OnnxNode): Value {
  const [a, b] = [real(node.input(0), affine(node, 1, 2)), real(node.input(3), affine(node, 4))];
  const { scale, zero } = affine(node, 6);
  return quantize(matmul(a, b), scale, zero, rangeFor(node, 7, UINT8));
}

function qLinearConv(node: OnnxNode): Value {
  const x = real(node.input(0), affine(node, 1));
  const weight = node.input(3);
  const weights = affine(node, 4, weight.shape.length);
  const bias = node.optional(8);
  // The bias has the scale of the product.
  const scale = mul(reshape(plain(node.input(1)), []), reshape(plain(node.input(4)), [-1]));
  const y = convolve(node, x, real(weight, weights), bias && mul(plain(bias), scale));
  const output = affine(node, 6);
  return quantize(y, output.scale, output.zero, rangeFor(node, 7, UINT8));
}

/** Integer products are left as they are. A zero point of a left operand may be one per row. */
function centered(node: OnnxNode, operand: number, zeroPoint: number, fromEnd = 1): Value {
  const zero = node.optional(zeroPoint);
  const x = asFloat(node, node.input(operand));
  if (!zero) return x;
  const isVector = zero.shape.length === 1 && zero.shape[0] !== 1;
  const around = isVector ? reshape(plain(zero), [-1, ...new Array<number>(fromEnd - 1).fill(1)]) : plain(zero);
  return sub(x, isVector || around.shape.length > 1 ? around : reshape(around, []));
}

/** y, scale and zero point of the range of x, which contains 0. */
function dynamicQuantizeLinear(node: OnnxNode): Value[] {
  const x = asFloat(node, node.input(0));
  const axes = x.shape.map((_, i) => i);
  const high = maximum(max(x, axes), 0);
  const low = minimum(mul(max(mul(x, -1), axes), -1), 0);
  const range = div(sub(high, low), 255);
  // Zeros alone have no range.
  const scale = where(equal(range, 0), 1, range);
  const zero = minimum(maximum(round(mul(div(low, scale), -1)), 0), 255);
  return [quantize(x, scale, zero, [0, 255]), scale, zero];
}

/** A function of one quantized tensor: x, its scale and zero point, those of y. */
const unary = (f: (x: Value, node: OnnxNode) => Value) => (node: OnnxNode) => {
  const output = affine(node, 3);
  return quantize(f(real(node.input(0), affine(node, 1)), node), output.scale, output.zero, rangeFor(node, 4, UINT8));
};

/** A function of two quantized tensors. */
const binary = (f: (a: Value, b: Value) => Value) => (node: OnnxNode) => {
  const output = affine(node, 6);
  const y = f(real(node.input(0), affine(node, 1)), real(node.input(3), affine(node, 4)));
  return quantize(y, output.scale, output.zero, rangeFor(node, 7, UINT8));
};

/** α A B + C with the quantized C of an integer product, quantized again if the node has a scale for its result. */
function qGemm(node: OnnxNode): Value {
  const [a, b, c] = [affine(node, 1, 2), affine(node, 4), node.optional(6)];
  const [transposeA, transposeB] = [node.int("transA") === 1, node.int("transB") === 1];
  const alpha = node.float("alpha") ?? 1;
  // One scale per column of the product, which is a row of a transposed B.
  const right = transposeB ? { scale: column(b.scale), zero: b.zero && column(b.zero) } : b;
  const product = matmul(real(node.input(0), a), real(node.input(3), right), { transposeA, transposeB });
  const scaled = alpha === 1 ? product : mul(product, alpha);
  const y = c ? add(scaled, mul(plain(c), mul(mul(a.scale, b.scale), alpha))) : scaled;
  if (!node.optional(7)) return y;
  const output = affine(node, 7);
  return quantize(y, output.scale, output.zero, rangeFor(node, 8, UINT8));
}

const column = (value: Value) => (value.shape.length === 1 ? reshape(value, [-1, 1]) : value);

export const quantization: Operators = {
  QuantizeLinear: quantizeLinear,
  DequantizeLinear: dequantizeLinear,
  "com.microsoft.QuantizeLinear": quantizeLinear,
  "com.microsoft.DequantizeLinear": dequantizeLinear,
  DynamicQuantizeLinear: dynamicQuantizeLinear,
  QLinearMatMul: qLinearMatMul,
  QLinearConv: qLinearConv,
  MatMulInteger: (node) => matmul(centered(node, 0, 2, 2), centered(node, 1, 3)),
  ConvInteger: (node) => {
    const weight = centered(node, 1, 3, node.input(1).shape.length);
    return convolve(node, centered(node, 0, 2), weight, undefined);
  },
  "com.microsoft.QLinearAdd": binary(add),
  "com.microsoft.QLinearMul": binary(mul),
  "com.microsoft.QLinearSigmoid": unary(sigmoid),
  "com.microsoft.QLinearLeakyRelu": unary((x, node) => where(greater(x, 0), x, mul(x, node.float("alpha") ?? 0.01))),
  "com.microsoft.QLinearGlobalAveragePool": unary((x, node) => {
    if (node.int("channels_last") === 1) node.fail("channels_last is not supported", { attribute: "channels_last" });
    return mean(x, x.shape.map((_, axis) => axis).slice(2), { keepDims: true });
  }),
  "com.microsoft.QLinearSoftmax": unary((x, node) => {
    node.ignore("opset");
    const axis = node.axis("axis", -1, x.shape.length);
    if (axis !== x.shape.length - 1) node.fail("is only supported along the last axis", { attribute: "axis" });
    return softmax(x);
  }),
  "com.microsoft.QLinearAveragePool": unary((x, node) => {
    if (node.int("channels_last") === 1) node.fail("channels_last is not supported", { attribute: "channels_last" });
    return averageOf(node, x);
  }),
  "com.microsoft.QGemm": qGemm,
  // Scale and zero point of y, then each tensor with its own.
  "com.microsoft.QLinearConcat": (node) => {
    const parts = Array.from({ length: (node.count - 2) / 3 }, (_, i) =>
      real(node.input(2 + 3 * i), affine(node, 3 + 3 * i)),
    );
    const output = affine(node, 0);
    const y = concat(parts, node.axis("axis", 1, parts[0]?.shape.length ?? 0));
    return quantize(y, output.scale, output.zero, rangeFor(node, 1, UINT8));
  },
};
