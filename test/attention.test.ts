import { afterAll, beforeAll, expect, test } from "vitest";
import { gradients } from "../src/autodiff/index.js";
import type { Value } from "../src/graph/value.js";
import { maskedAttention } from "../src/nn/attention.js";
import { attention, input, zeros } from "../src/ops/index.js";
import { Runtime } from "../src/runtime/runtime.js";
import { float32, type HostTensor } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { relativeError } from "./golden.js";
import { OP_TOLERANCE } from "./tolerance.js";

let runtime: Runtime;
beforeAll(async () => {
  runtime = await Runtime.start({ threads: 1 });
});
afterAll(() => runtime.close());

test("attention in chunks has the same gradients as attention with all scores at once", async () => {
  // 4 heads of 2100 x 2000 scores are 67 MB, which is above the limit of a chunk.
  const [n, m, c, heads] = [2100, 2000, 8, 4];
  const inputs = { q: input([1, n, c]), k: input([1, m, c]), v: input([1, m, c]), upstream: input([1, n, c]) };
  const { q, k, v, upstream } = inputs;
  const withGradients = (y: Value, name: string) => {
    const found = gradients([{ value: y, gradient: upstream }], [q, k, v]) as Value[];
    return Object.fromEntries([y, ...found].map((value, i) => [`${name}${i}`, value]));
  };
  const outputs = {
    ...withGradients(attention(q, k, v, heads), "chunked"),
    ...withGradients(maskedAttention(q, k, v, { heads, mask: zeros([n, m]) }), "whole"),
  };
  const program = await runtime.compile({ name: "attention", inputs, outputs });
  const rng = new Rng(1);
  const feeds = Object.fromEntries(
    Object.entries(inputs).map(([name, { shape }]) => [
      name,
      float32(rng.normals((shape[1] as number) * c), [...shape]),
    ]),
  );
  const found = await program.run(feeds);
  for (let i = 0; i < 4; i++) {
    expect(relativeError(found[`chunked${i}`] as HostTensor, found[`whole${i}`] as HostTensor)).toBeLessThan(
      OP_TOLERANCE,
    );
  }
});
