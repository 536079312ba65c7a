/**
 * Products with weights of 4 or 8 bits in blocks:
 * https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#commicrosoftmatmulnbits
 */
import type { Value } from "../../../graph/value.js";
import { add, cast, concat, floor, matmul, mul, reshape, slice, sub } from "../../../ops/index.js";
import { isFloating } from "../../../tensor/dtype.js";
import { showShape, sizeOf } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import type { Operators } from "./operator.js";

/** Bytes [..., n] → their halves [..., 2 n], the lower one first. Bytes of 8-bit integers stay. */
function unpacked(bytes: Value, bits: number): Value {
  const x = cast(bytes, "float32");
  if (bits === 8) return x;
  const high = floor(mul(x, 1 / 16));
  const pairs = [sub(x, mul(high, 16)), high].map((half) => reshape(half, [...x.shape, 1]));
  return reshape(concat(pairs, x.shape.length), [...x.shape.slice(0, -1), 2 * (x.shape.at(-1) as number)]);
}

/** x [..., k] · Wᵀ with W [n, k] = (q - zero point) · scale, in blocks along k */
function matMulNBits(node: OnnxNode): Value {
  const [x, weight, scales] = [node.input(0), node.input(1), node.input(2)];
  const [zero, bias] = [node.optional(3), node.optional(5)];
  const [k, n, bits] = [node.int("K") ?? 0, node.int("N") ?? 0, node.int("bits") ?? 4];
  const size = node.int("block_size") ?? 0;
  // How ONNX Runtime computes the product, and a way to tell the packing for GPUs apart.
  node.ignore("accuracy_level");
  if (bits !== 4 && bits !== 8) node.fail(`weights of ${bits} bits are not supported`, { attribute: "bits" });
  const blocks = Math.ceil(k / size);
  const perBlock = (size * bits) / 8;
  if (!(blocks >= 1) || sizeOf(weight.shape) !== n * blocks * perBlock || sizeOf(scales.shape) !== n * blocks) {
    node.fail(`its weight ${showShape(weight.shape)} does not fit ${n} rows of ${k} in blocks of ${size}`);
  }
  const q = unpacked(reshape(weight, [n, blocks, perBlock]), bits);
  const middle = 2 ** (bits - 1);
  const centered = zero ? sub(q, reshape(zeroPoints(zero, { n, blocks, bits }), [n, blocks, 1])) : sub(q, middle);
  const whole = reshape(mul(centered, reshape(scales, [n, blocks, 1])), [n, blocks * size]);
  const y = matmul(x, slice(whole, 1, [0, k]), { transposeB: true });
  return bias ? add(y, bias) : y;
}

/** One zero point per block [n, blocks]: floating point, or packed as the weights are, each row in whole bytes. */
function zeroPoints(zero: Value, { n, blocks, bits }: { n: number; blocks: number; bits: number }): Value {
  if (isFloating(zero.dtype)) return reshape(zero, [n, blocks]);
  return slice(unpacked(reshape(zero, [n, Math.ceil((blocks * bits) / 8)]), bits), 1, [0, blocks]);
}

export const packedWeights: Operators = { "com.microsoft.MatMulNBits": matMulNBits };
