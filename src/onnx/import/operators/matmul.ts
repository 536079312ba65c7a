/** Matrix products: https://onnx.ai/onnx/operators/ */
import type { Value } from "../../../graph/value.js";
import { add, linear, matmul, mul, reshape } from "../../../ops/index.js";
import type { OnnxNode } from "../node.js";
import type { Operators } from "./operator.js";

/** numpy.matmul: a vector is a row on the left and a column on the right, and that axis is dropped from the result. */
function product(node: OnnxNode): Value {
  const [a, b] = [node.input(0), node.input(1)];
  if (a.shape.length === 0 || b.shape.length === 0) node.fail("an operand is a scalar");
  const [row, column] = [a.shape.length === 1, b.shape.length === 1];
  const y = matmul(row ? reshape(a, [1, -1]) : a, column ? reshape(b, [-1, 1]) : b);
  if (!row && !column) return y;
  const batch = y.shape.slice(0, -2);
  return reshape(y, [
    ...batch,
    ...(row ? [] : [y.shape.at(-2) as number]),
    ...(column ? [] : [y.shape.at(-1) as number]),
  ]);
}

export function gemm(node: OnnxNode): Value {
  const [a, b, c] = [node.input(0), node.input(1), node.optional(2)];
  const [transposeA, transposeB] = [node.int("transA") === 1, node.int("transB") === 1];
  const [alpha, beta] = [node.float("alpha") ?? 1, node.float("beta") ?? 1];
  const [, columns] = transposeB ? [...b.shape].reverse() : b.shape;
  // torch.nn.Linear is exported like this.
  if (!transposeA && transposeB && alpha === 1 && beta === 1 && c?.shape.length === 1 && c.shape[0] === columns) {
    return linear(a, b, c);
  }
  const y = matmul(a, b, { transposeA, transposeB });
  const scaled = alpha === 1 ? y : mul(y, alpha);
  if (!c || beta === 0) return scaled;
  return add(scaled, beta === 1 ? c : mul(c, beta));
}

export const matrixProducts: Operators = {
  MatMul: product,
  Gemm: gemm,
};
