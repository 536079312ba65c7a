import type { Value } from "../../graph/value.js";
import { matmul } from "../../ops/matmul.js";
import { sum } from "../../ops/reduce.js";
import type { OPS } from "../../ops/table.js";
import type { Rules } from "../rule.js";

interface Transposes {
  readonly transposeA: boolean;
  readonly transposeB: boolean;
}

/** y = a b → da = dy bᵀ and db = aᵀ dy. The gradient of a transposed operand is transposed too. */
function operandGradients(dy: Value, a: Value, b: Value, { transposeA, transposeB }: Transposes) {
  return [
    () =>
      transposeA
        ? matmul(b, dy, { transposeA: transposeB, transposeB: true })
        : matmul(dy, b, { transposeB: !transposeB }),
    () =>
      transposeB
        ? matmul(dy, a, { transposeA: true, transposeB: transposeA })
        : matmul(a, dy, { transposeA: !transposeA }),
  ];
}

export const matmulRules: Rules<Pick<typeof OPS, "matmul" | "gemm">> = {
  matmul: (dy, { inputs: [a, b], attrs }) => operandGradients(dy, a, b, attrs),
  gemm: (dy, { inputs: [a, b], attrs }) => [...operandGradients(dy, a, b, attrs), () => sum(dy, 0)],
};
