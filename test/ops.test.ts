import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { gradients } from "../src/autodiff/index.js";
import type { Graph } from "../src/graph/graph.js";
import { interpret } from "../src/graph/interpret.js";
import type { F64Array, Value } from "../src/graph/value.js";
import { halfPrecision } from "../src/onnx/half-precision.js";
import { constant, input } from "../src/ops/index.js";
import { Runtime } from "../src/runtime/runtime.js";
import { fromNumbers, toNumbers } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { sizeOf } from "../src/tensor/shape.js";
import { COMPOSED_CASES, OP_CASES, type OpCase } from "./op-cases.js";
import { roundingTolerance } from "./tolerance.js";

let runtime: Runtime;
beforeAll(async () => {
  runtime = await Runtime.start({ threads: 1 });
});
afterAll(() => runtime.close());

/** A graph of the op and of the gradient of ⟨y, upstream⟩ with respect to each input. */
function graphOf(name: string, { shapes, build }: OpCase, rng: Rng): { graph: Graph; upstream: Float64Array } {
  const inputs = shapes.map((shape) => input(shape));
  const y = build(...inputs);
  const upstream = Float64Array.from({ length: sizeOf(y.shape) }, () => Math.fround(rng.normal()));
  const found = gradients([{ value: y, gradient: constant(upstream, y.shape) }], inputs) as Value[];
  return {
    upstream,
    graph: {
      name,
      inputs: Object.fromEntries(inputs.map((value, i) => [`x${i}`, value])),
      outputs: { y, ...Object.fromEntries(found.map((value, i) => [`dx${i}`, value])) },
    },
  };
}

function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number, name: string): void {
  expect(actual.length, name).toBe(expected.length);
  const scale = Math.max(1, ...Array.from(expected, Math.abs));
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs((actual[i] as number) - (expected[i] as number)) / scale;
    if (!(error <= tolerance))
      throw new Error(`${name}[${i}]: ${actual[i]}, expected ${expected[i]} (relative error ${error})`);
  }
}

for (const [name, cases] of Object.entries({ ...OP_CASES, ...COMPOSED_CASES })) {
  if (cases.length === 0) continue;
  describe(name, () => {
    for (const [number, spec] of cases.entries()) {
      const rng = new Rng(7, number);
      const [low, high] = spec.range ?? [-1, 1];
      const { graph, upstream } = graphOf(name, spec, rng);
      const feeds: Record<string, F64Array> = Object.fromEntries(
        Object.entries(graph.inputs).map(([key, { shape }]) => [
          key,
          {
            shape,
            data: Float64Array.from({ length: sizeOf(shape) }, () => Math.fround(low + (high - low) * rng.uniform())),
          },
        ]),
      );
      const label = spec.shapes.map((shape) => `[${shape}]`).join(" ");

      test(`ONNX Runtime agrees with float64 on ${label} in value and gradient`, async () => {
        const expected = interpret(graph, feeds);
        const program = await runtime.compile(graph);
        const actual = await program.run(
          Object.fromEntries(Object.entries(feeds).map(([key, { data, shape }]) => [key, fromNumbers(data, shape)])),
        );
        await program.release();
        for (const [key, tensor] of Object.entries(actual)) {
          expectClose(toNumbers(tensor), (expected[key] as F64Array).data, roundingTolerance("float32", 8), key);
        }
      });

      test(`float16 agrees with float64 within 1e-2 on ${label} in value and gradient`, async () => {
        const rounded = Object.fromEntries(
          Object.entries(feeds).map(([key, { data, shape }]) => {
            return [key, { shape, data: toNumbers(fromNumbers(data, shape, "float16")) }];
          }),
        );
        const expected = interpret(graph, rounded);
        const program = await runtime.compile(halfPrecision(graph));
        const actual = await program.run(
          Object.fromEntries(Object.entries(rounded).map(([key, { data, shape }]) => [key, fromNumbers(data, shape)])),
        );
        await program.release();
        for (const [key, tensor] of Object.entries(actual)) {
          expect(tensor.dtype).toBe("float32");
          expectClose(toNumbers(tensor), (expected[key] as F64Array).data, roundingTolerance("float16", 5), key);
        }
      });

      test(`the gradient agrees with finite differences on ${label}`, () => {
        const { dx0: _, ...rest } = graph.outputs;
        const analytic = interpret(graph, feeds);
        const loss = (changed: Record<string, F64Array>) => {
          const y = interpret({ ...graph, outputs: { y: rest.y as Value } }, changed).y as F64Array;
          return y.data.reduce((total, value, i) => total + value * (upstream[i] as number), 0);
        };
        for (const [i, key] of Object.keys(graph.inputs).entries()) {
          const { shape, data } = feeds[key] as F64Array;
          const step = 1e-5;
          const numeric = data.map((value, at) => {
            const moved = (delta: number) => loss({ ...feeds, [key]: { shape, data: data.with(at, value + delta) } });
            return (moved(step) - moved(-step)) / (2 * step);
          });
          expectClose((analytic[`dx${i}`] as F64Array).data, numeric, 1e-6, `dx${i}`);
        }
      });
    }
  });
}
