import { bytesOf, type Value } from "../../graph/value.js";
import { mul, sub } from "../../ops/elementwise.js";
import { matmul } from "../../ops/matmul.js";
import { concat, reshape, slice, transpose } from "../../ops/movement.js";
import { softmax } from "../../ops/norm.js";
import { sum } from "../../ops/reduce.js";
import type { OPS } from "../../ops/table.js";
import type { Rules } from "../rule.js";

/** Scores that are in memory at once. With 64x64 latents, the scores of a single head take 64 MiB. */
const MAX_SCORE_BYTES = 2 ** 26;

/** x [b, n, c] → [b · heads, n, c / heads] */
function splitHeads(x: Value, heads: number): Value {
  const [batch, tokens, features] = x.shape as [number, number, number];
  const split = reshape(x, [batch, tokens, heads, features / heads]);
  return reshape(transpose(split, [0, 2, 1, 3]), [batch * heads, tokens, features / heads]);
}

/** x [b · heads, n, c / heads] → [b, n, c] */
function joinHeads(x: Value, heads: number): Value {
  const [batches, tokens, features] = x.shape as [number, number, number];
  const split = reshape(x, [batches / heads, heads, tokens, features]);
  return reshape(transpose(split, [0, 2, 1, 3]), [batches / heads, tokens, heads * features]);
}

/** Query, key, value, output and the gradient of the output, each [batch · heads, tokens, features]. */
type HeadInputs = [query: Value, key: Value, value: Value, output: Value, dOutput: Value];

/**
 * Gradients of attention in each head, with o = p v, p = softmax(s) and s = q kᵀ / √d (Dao et al. 2022, arXiv
 * 2205.14135, B.2):
 *
 *     dv = pᵀ do,  ds = p (do vᵀ - Σ do o),  dq = ds k / √d,  dk = dsᵀ q / √d
 *
 * p is recomputed instead of saved. Σ do o runs over d features and replaces a sum over m tokens.
 */
function headGradients([query, k, v, o, dOut]: HeadInputs): [dq: Value, dk: Value, dv: Value] {
  const scale = 1 / Math.sqrt(query.shape.at(-1) as number);
  // Scale the queries, because they are smaller than the scores.
  const q = mul(query, scale);
  const p = softmax(matmul(q, k, { transposeB: true }));
  const ds = mul(p, sub(matmul(dOut, v, { transposeB: true }), sum(mul(dOut, o), -1, { keepDims: true })));
  return [mul(matmul(ds, k), scale), matmul(ds, q, { transposeA: true }), matmul(p, dOut, { transposeA: true })];
}

export const attentionRules: Rules<Pick<typeof OPS, "attention">> = {
  attention: (dy, { inputs: [query, key, value], y, attrs: { heads } }) => {
    const split = [query, key, value, y, dy].map((x) => splitHeads(x, heads)) as HeadInputs;
    const [batches, n] = split[0].shape as [number, number];
    const m = split[1].shape[1] as number;
    const scoreBytes = bytesOf({ shape: [n, m], dtype: query.dtype });
    const atOnce = Math.max(1, Math.floor(MAX_SCORE_BYTES / scoreBytes));
    if (atOnce >= batches) {
      return headGradients(split).map((gradient) => () => joinHeads(gradient, heads));
    }
    // Concatenate the three gradients of a part, so that the runtime finishes one part before it starts the next.
    const parts: Value[] = [];
    for (let start = 0; start < batches; start += atOnce) {
      const part = split.map((x) => slice(x, 0, [start, Math.min(batches, start + atOnce)])) as HeadInputs;
      parts.push(concat(headGradients(part), 1));
    }
    const all = concat(parts, 0);
    const tokens = (from: number, count: number) => () => joinHeads(slice(all, 1, [from, from + count]), heads);
    return [tokens(0, n), tokens(n, m), tokens(n + m, m)];
  },
};
