import type { Value } from "../src/graph/value.js";
import { add, exp, log, max, mean, mul, neg, sub, sum } from "../src/ops/index.js";

/** logits and targets [b, n], where rows of the targets sum to 1 → mean cross entropy, a scalar. */
export function crossEntropy(logits: Value, targets: Value): Value {
  const top = max(logits, -1, { keepDims: true });
  const logSum = add(log(sum(exp(sub(logits, top)), -1, { keepDims: true })), top);
  return mean(neg(sum(mul(targets, sub(logits, logSum)), -1)), 0);
}
