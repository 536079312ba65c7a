/**
 * Measures how fast this engine multiplies large matrices, and prints one line of JSON. All products are in one program, each
 * on the result of the one before, so that one matrix and one number cross between threads and the time is that of the
 * products alone.
 */
import { parseArgs } from "node:util";
import type { Value } from "../src/graph/value.js";
import { input, matmul, mean } from "../src/ops/index.js";
import { Runtime } from "../src/runtime/runtime.js";
import { float32 } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";

const { values } = parseArgs({
  options: {
    threads: { type: "string", default: "2" },
    repeat: { type: "string", default: "5" },
    size: { type: "string", default: "2048" },
    products: { type: "string", default: "12" },
  },
});
const [n, products] = [Number(values.size), Number(values.products)];
const runtime = await Runtime.start({ threads: Number(values.threads) });
const matrix = input([n, n]);
let y: Value = matrix;
for (let i = 0; i < products; i++) y = matmul(y, matrix);
const program = await runtime.compile({
  name: "matrix products",
  inputs: { matrix },
  outputs: { y: mean(y, [0, 1]) },
});
// Elements of variance 1/n: a product has the magnitude of its factors.
const feeds = {
  matrix: float32(
    new Rng(0).normals(n * n).map((x) => x / Math.sqrt(n)),
    [n, n],
  ),
};
await program.run(feeds);
const seconds: number[] = [];
for (let i = 0; i < Number(values.repeat); i++) {
  const began = performance.now();
  await program.run(feeds);
  seconds.push((performance.now() - began) / 1000);
}
await runtime.close();
const flops = products * 2 * n ** 3;
console.log(JSON.stringify({ seconds, flops, gflops: flops / Math.min(...seconds) / 1e9 }));
