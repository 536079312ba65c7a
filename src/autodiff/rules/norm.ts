import type { Value } from "../../graph/value.js";
import { mul, sub } from "../../ops/elementwise.js";
import { mean, sum } from "../../ops/reduce.js";
import type { OPS } from "../../ops/table.js";
import type { Rules } from "../rule.js";

/**
 * The gradient of n = (x - mean) r, where r is the inverse standard deviation and g the gradient of n:
 * dx = r (g - mean(g) - n mean(g n)). It follows from the definition in Ba et al. 2016.
 */
function throughStandardization(g: Value, n: Value, inverse: Value): Value {
  const along = mean(mul(g, n), -1, { keepDims: true });
  return mul(inverse, sub(sub(g, mean(g, -1, { keepDims: true })), mul(n, along)));
}

export const normRules: Rules<Pick<typeof OPS, "layerNorm" | "standardize" | "softmax">> = {
  layerNorm: (dy, { inputs: [x, scale], outputs }) => {
    const [, average, inverse] = outputs as [Value, Value, Value];
    const normal = () => mul(sub(x, average), inverse);
    return [() => throughStandardization(mul(dy, scale), normal(), inverse), () => mul(dy, normal()), () => dy];
  },
  standardize: (dy, { y, outputs: [, inverse] }) => [() => throughStandardization(dy, y, inverse as Value)],
  // dx = y (dy - Σ dy y)
  softmax: (dy, { y }) => [() => mul(y, sub(dy, sum(mul(dy, y), -1, { keepDims: true })))],
};
