import { apply1, CONTRIB, type F64Array, type OpDef, showType, type TensorType, type Value } from "../graph/value.js";

export interface AttentionAttrs {
  readonly heads: number;
}

/**
 * Multi-head attention (Vaswani et al. 2017, section 3.2): softmax(q kᵀ / √d) v in each of `heads` heads of d features.
 * Query [b, n, c], key and value [b, m, c] → [b, n, c]. It is one op so that the runtime never stores the scores
 * [b, heads, n, m], which at 64x64 latents are by far the largest tensors.
 */
export const attentionOp: OpDef<AttentionAttrs> = {
  name: "attention",
  autocast: "float16",
  infer: ([query, key, value], { heads }) => {
    const types = [query, key, value] as [TensorType, TensorType, TensorType];
    const [[b, , c], [kb, m, kc], [vb, vm, vc]] = types.map(({ shape }) => shape) as [number[], number[], number[]];
    const fits = b === kb && b === vb && m === vm && c === kc && c === vc;
    if (types.some(({ shape, dtype }) => shape.length !== 3 || dtype !== types[0].dtype) || !fits) {
      throw new TypeError(`attention: query, key and value ${types.map(showType).join(", ")} do not fit together`);
    }
    if ((c as number) % heads !== 0) throw new TypeError(`attention: ${heads} heads do not divide ${c} features`);
    return [types[0]];
  },
  emit: (w, inputs, { attrs: { heads } }) => w.node(`${CONTRIB}.MultiHeadAttention`, inputs, { num_heads: heads }),
  evaluate: ([query, key, value], { attrs: { heads } }) => {
    const [q, k, v] = [query, key, value] as [F64Array, F64Array, F64Array];
    const [batch, n, c] = q.shape as [number, number, number];
    const m = k.shape[1] as number;
    const d = c / heads;
    const data = new Float64Array(q.data.length);
    const row = (x: F64Array, tokens: number, [b, token, head]: readonly [number, number, number]) => {
      const start = (b * tokens + token) * c + head * d;
      return x.data.subarray(start, start + d);
    };
    for (let b = 0; b < batch; b++) {
      for (let head = 0; head < heads; head++) {
        for (let i = 0; i < n; i++) {
          const queryRow = row(q, n, [b, i, head]);
          const scores = Float64Array.from(
            { length: m },
            (_, j) => dot(queryRow, row(k, m, [b, j, head])) / Math.sqrt(d),
          );
          const top = scores.reduce((a, score) => Math.max(a, score), Number.NEGATIVE_INFINITY);
          const weights = scores.map((score) => Math.exp(score - top));
          const total = weights.reduce((sum, weight) => sum + weight, 0);
          const out = data.subarray((b * n + i) * c + head * d, (b * n + i) * c + (head + 1) * d);
          for (const [j, weight] of weights.entries()) {
            for (const [feature, x] of row(v, m, [b, j, head]).entries()) {
              out[feature] = (out[feature] as number) + (weight / total) * x;
            }
          }
        }
      }
    }
    return [{ shape: q.shape, data }];
  },
};

function dot(a: Float64Array, b: Float64Array): number {
  return a.reduce((sum, x, i) => sum + x * (b[i] as number), 0);
}

/** Multi-head scaled dot-product attention: query [b, n, c], key and value [b, m, c] → [b, n, c]. */
export function attention(query: Value, key: Value, value: Value, heads: number): Value {
  return apply1(attentionOp, [query, key, value], { heads });
}
