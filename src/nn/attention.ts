import type { Value } from "../graph/value.js";
import { add, matmul, mul, reshape, softmax, transpose } from "../ops/index.js";

/**
 * Scaled dot-product attention of several heads (Vaswani et al. 2017, section 3.2) between projected tensors:
 * query [b, n, c], key and value [b, m, c] → [b, n, c]. `mask` is added to the scores [b, heads, n, m].
 */
export function attention(query: Value, key: Value, value: Value, heads: number, mask?: Value): Value {
  const [batch, tokens, features] = query.shape as [number, number, number];
  if (features % heads !== 0) throw new TypeError(`attention: ${heads} heads do not divide ${features} features`);
  // The scale goes onto the queries: they are smaller than the scores.
  const scaled = mul(query, 1 / Math.sqrt(features / heads));
  const scores = matmul(splitHeads(scaled, heads), splitHeads(key, heads), { transposeB: true });
  const weights = softmax(mask ? add(scores, mask) : scores);
  const mixed = matmul(weights, splitHeads(value, heads));
  return heads === 1 ? mixed : reshape(transpose(mixed, [0, 2, 1, 3]), [batch, tokens, features]);
}

/** [b, n, c] → [b, heads, n, c / heads]; one head needs no axis of its own. */
function splitHeads(x: Value, heads: number): Value {
  if (heads === 1) return x;
  const [batch, tokens, features] = x.shape as [number, number, number];
  return transpose(reshape(x, [batch, tokens, heads, features / heads]), [0, 2, 1, 3]);
}
