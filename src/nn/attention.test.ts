import { expect, test } from "vitest";
import { interpret } from "../graph/interpret.js";
import { input, zeros } from "../ops/index.js";
import { fromNumbers } from "../tensor/host.js";
import { Rng } from "../tensor/rng.js";
import { maskedAttention } from "./attention.js";

interface Case {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
  readonly n: number;
  readonly m: number;
  readonly c: number;
  readonly heads: number;
}

/** softmax(q kᵀ / √d) v in each head, with plain loops: q [n, c], k and v [m, c] → [n, c]. */
function referenceAttention({ q, k, v, n, m, c, heads }: Case) {
  const d = c / heads;
  const out = new Float64Array(n * c);
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < n; i++) {
      const at = (x: Float32Array, row: number, j: number) => x[row * c + head * d + j] as number;
      const scores = Array.from({ length: m }, (_, row) => {
        let dot = 0;
        for (let j = 0; j < d; j++) dot += at(q, i, j) * at(k, row, j);
        return Math.exp(dot / Math.sqrt(d));
      });
      const total = scores.reduce((a, b) => a + b);
      for (let j = 0; j < d; j++) {
        out[i * c + head * d + j] = scores.reduce((sum, score, row) => sum + (score / total) * at(v, row, j), 0);
      }
    }
  }
  return out;
}

for (const heads of [1, 2, 6]) {
  test(`attention with ${heads} heads is softmax(q kᵀ / √d) v in each`, () => {
    const [n, m, c] = [3, 4, 6];
    const rng = new Rng(3);
    const [q, k, v] = [rng.normals(n * c), rng.normals(m * c), rng.normals(m * c)];
    const inputs = { q: input([1, n, c]), k: input([1, m, c]), v: input([1, m, c]) };
    const out = maskedAttention(inputs.q, inputs.k, inputs.v, { heads, mask: zeros([n, m]) });
    const result = interpret(
      { name: "attention", inputs, outputs: { out } },
      { q: fromNumbers(q, [1, n, c]), k: fromNumbers(k, [1, m, c]), v: fromNumbers(v, [1, m, c]) },
    );
    const expected = referenceAttention({ q, k, v, n, m, c, heads });
    expect(result.out?.shape).toEqual([1, n, c]);
    for (const [i, y] of expected.entries()) expect(result.out?.data[i]).toBeCloseTo(y, 6);
  });
}

test("the number of heads must divide the number of features", () => {
  const x = input([1, 3, 6]);
  expect(() => maskedAttention(x, x, x, { heads: 4, mask: zeros([3, 3]) })).toThrow("4 heads do not divide 6 features");
});
