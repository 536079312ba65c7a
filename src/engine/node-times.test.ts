import { afterAll, beforeAll, expect, test } from "vitest";
import type { Graph } from "../graph/graph.js";
import { add, exp, gather, input, matmul, matrixTranspose, parameter } from "../ops/index.js";
import { Runtime } from "../runtime/runtime.js";
import { modelledSeconds } from "./node-times.js";

let runtime: Runtime;
beforeAll(async () => {
  runtime = await Runtime.start({ threads: 1 });
});
afterAll(() => runtime.close());

const PACKED = Number.POSITIVE_INFINITY;
const x = input([64, 64]);
const graphOf = (y: ReturnType<typeof input>): Graph => ({ name: "g", inputs: { x }, outputs: { y } });

test("a program takes the time of its operations, and equal ones take the same", async () => {
  const once = graphOf(matmul(x, x));
  const twice = graphOf(matmul(matmul(x, x), x));
  const calls = [once, twice].map((graph) => ({ graph, packUpTo: PACKED, calls: 1 }));
  const seconds = await modelledSeconds(runtime, calls);
  expect(seconds(once, PACKED)).toBeGreaterThan(0);
  expect(seconds(twice, PACKED)).toBe(2 * seconds(once, PACKED));
});

test("what depends on weights alone takes time only if they are mapped", async () => {
  const weight = matrixTranspose(exp(parameter("w", [64, 64], "float32")));
  const graph = graphOf(matmul(x, weight));
  const bare = graphOf(matmul(x, x));
  const calls = [PACKED, 0].map((packUpTo) => ({ graph, packUpTo, calls: 1 }));
  const seconds = await modelledSeconds(runtime, calls);
  expect(seconds(graph, 0)).toBeGreaterThan(seconds(graph, PACKED));
  expect(seconds(bare, PACKED)).toBeGreaterThan(0);
});

test("an operation that cannot be measured by itself is guessed", async () => {
  const rows = input([8], "int64");
  const picked = gather(x, rows);
  const graph = { name: "g", inputs: { x, rows }, outputs: { y: add(picked, picked) } };
  const seconds = await modelledSeconds(runtime, [{ graph, packUpTo: PACKED, calls: 1 }]);
  expect(seconds(graph, PACKED)).toBeGreaterThan(0);
});
