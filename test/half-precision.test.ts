/** Half precision beside float32: every op, and the tiny U-Nets. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { gradients } from "../src/autodiff/index.js";
import type { Graph } from "../src/graph/graph.js";
import { verify } from "../src/graph/graph.js";
import type { Value } from "../src/graph/value.js";
import { halfPrecision } from "../src/onnx/half-precision.js";
import { constant, input } from "../src/ops/index.js";
import { Runtime } from "../src/runtime/runtime.js";
import { fromNumbers, toNumbers } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { sizeOf } from "../src/tensor/shape.js";
import { COMPOSED_CASES, OP_CASES, type OpCase } from "./op-cases.js";

let runtime: Runtime;
beforeAll(async () => {
  runtime = await Runtime.start({ threads: 1 });
});
afterAll(() => runtime.close());

/** The op, and the gradient of ⟨y, upstream⟩ in each input. */
function graphOf(name: string, { shapes, build }: OpCase, rng: Rng): Graph {
  const inputs = shapes.map((shape) => input(shape));
  const y = build(...inputs);
  const upstream = constant(
    Float64Array.from({ length: sizeOf(y.shape) }, () => rng.normal()),
    y.shape,
  );
  const given = gradients([{ value: y, gradient: upstream }], inputs) as Value[];
  return {
    name,
    inputs: Object.fromEntries(inputs.map((value, i) => [`x${i}`, value])),
    outputs: { y, ...Object.fromEntries(given.map((value, i) => [`dx${i}`, value])) },
  };
}

describe("every op in half precision agrees with float32, value and gradient:", () => {
  for (const [name, cases] of Object.entries({ ...OP_CASES, ...COMPOSED_CASES })) {
    if (cases.length === 0) continue;
    test(name, async () => {
      for (const [number, spec] of cases.entries()) {
        const rng = new Rng(11, number);
        const [low, high] = spec.range ?? [-1, 1];
        const graph = graphOf(name, spec, rng);
        const half = halfPrecision(graph);
        verify(half);
        const feeds = Object.fromEntries(
          Object.entries(graph.inputs).map(([key, { shape }]) => [
            key,
            // Numbers that a half holds, so that no threshold lies between the two.
            fromNumbers(
              Float64Array.from(
                { length: sizeOf(shape) },
                () => Math.round((low + (high - low) * rng.uniform()) * 512) / 512,
              ),
              shape,
            ),
          ]),
        );
        const [single, halved] = await Promise.all(
          [graph, half].map(async (each) => {
            const program = await runtime.compile(each);
            const results = await program.run(feeds);
            await program.release();
            return results;
          }),
        );
        for (const key of Object.keys(graph.outputs)) {
          const [a, b] = [single?.[key], halved?.[key]].map((tensor) => tensor && toNumbers(tensor));
          const size = Math.max(1, ...(a ?? []).map(Math.abs));
          const errors = (a ?? []).map((x, i) => Math.abs(x - (b?.[i] as number)) / size);
          expect(Math.max(...errors), `${key} of case ${number}`).toBeLessThan(1e-2);
        }
      }
    });
  }
});
