import type { Value } from "../graph/value.js";
import { add, matmul, mul, reshape, softmax, transpose } from "../ops/index.js";

/**
 * Multi-head attention with an additive mask: query [b, n, c], key and value [b, m, c] → [b, n, c]. The mask broadcasts
 * to the scores [b, heads, n, m]. Without a mask, use `ops.attention`: it never stores
 * the scores.
 */
export function maskedAttention(
  query: Value,
  key: Value,
  value: Value,
  { heads, mask }: { readonly heads: number; readonly mask: Value },
): Value {
  const [batch, tokens, features] = query.shape as [number, number, number];
  if (features % heads !== 0) throw new TypeError(`attention: ${heads} heads do not divide ${features} features`);
  const split = (x: Value) =>
    transpose(reshape(x, [batch, x.shape[1] as number, heads, features / heads]), [0, 2, 1, 3]);
  // Scale the queries, because they are smaller than the scores.
  const scores = matmul(split(mul(query, 1 / Math.sqrt(features / heads))), split(key), { transposeB: true });
  const mixed = matmul(softmax(add(scores, mask)), split(value));
  return reshape(transpose(mixed, [0, 2, 1, 3]), [batch, tokens, features]);
}
