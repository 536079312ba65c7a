/** Compares each imported operator, computed in float64, with ONNX Runtime's result for the original ONNX node. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { afterAll, describe, expect, test } from "vitest";
import type { Case } from "../../../test/onnx-cases/case.js";
import { FUSED } from "../../../test/onnx-cases/fused.js";
import { QUANTIZED } from "../../../test/onnx-cases/quantized.js";
import { BITS, LEARNED, LOSSES, RECURRENT } from "../../../test/onnx-cases/special.js";
import { STANDARD } from "../../../test/onnx-cases/standard.js";
import { model, node } from "../../../test/onnx-model.js";
import { gradients } from "../../autodiff/index.js";
import { interpret } from "../../graph/interpret.js";
import type { F64Array, Value } from "../../graph/value.js";
import { constant, input } from "../../ops/index.js";
import { isFloating } from "../../tensor/dtype.js";
import { Rng } from "../../tensor/rng.js";
import { sizeOf } from "../../tensor/shape.js";
import { openOnnx } from "./file.js";
import { OnnxImport } from "./import.js";
import { OPERATORS } from "./operators/index.js";

/** Operators that ONNX Runtime does not have. parity/onnx_nodes.ts compares them with the reference of the ONNX project. */
const NOT_IN_RUNTIME: readonly string[] = ["SwiGLU", "CumProd"];

const ALL: Readonly<Record<string, readonly Case[]>> = {
  ...STANDARD,
  ...QUANTIZED,
  ...FUSED,
  ...Object.fromEntries(Object.entries(LEARNED).map(([name, cases]) => [`ai.onnx.ml.${name}`, cases])),
  ...RECURRENT,
  ...LOSSES,
  ...BITS,
};

const scratch = mkdtempSync(join(tmpdir(), "alignprop-onnx-"));
afterAll(() => rmSync(scratch, { recursive: true }));
const rng = new Rng(3);

test("every operator has a case", () => {
  expect([...Object.keys(ALL), ...NOT_IN_RUNTIME].sort()).toEqual(Object.keys(OPERATORS).sort());
  expect(Object.values(ALL).every((cases) => cases.length > 0)).toBe(true);
});

/** Where the gradient of each floating point output along a random direction is not that of central differences. */
function gradientProblems(
  inputs: Readonly<Record<string, Value>>,
  outputs: Readonly<Record<string, Value>>,
  feeds: Readonly<Record<string, F64Array>>,
): string[] {
  const names = Object.keys(inputs);
  if (names.length === 0) return [];
  return Object.entries(outputs).flatMap(([result, y]) => {
    if (!isFloating(y.dtype)) return [];
    const upstream = Float64Array.from({ length: sizeOf(y.shape) }, () => rng.normal());
    const found = gradients([{ value: y, gradient: constant(upstream, y.shape) }], Object.values(inputs));
    const slopes = Object.fromEntries(
      found.flatMap((value, i) => (value ? [[names[i] as string, value] as const] : [])),
    );
    const computed = interpret({ name: "gradient", inputs, outputs: slopes }, feeds);
    const direction = Object.fromEntries(
      Object.entries(feeds).map(([name, { data }]) => [name, data.map(() => rng.normal())]),
    );
    const step = 1e-5;
    const at = (by: number) => {
      const moved = Object.fromEntries(
        Object.entries(feeds).map(([name, { shape, data }]) => [
          name,
          { shape, data: data.map((x, i) => x + by * (direction[name]?.[i] as number)) },
        ]),
      );
      const { data } = interpret({ name: "moved", inputs, outputs: { y } }, moved).y as F64Array;
      return data.reduce((sum, x, i) => sum + x * (upstream[i] as number), 0);
    };
    const numeric = (at(step) - at(-step)) / (2 * step);
    const analytic = Object.entries(computed).reduce(
      (total, [name, { data }]) => data.reduce((sum, x, i) => sum + x * (direction[name]?.[i] as number), total),
      0,
    );
    const isClose = Math.abs(numeric - analytic) <= 1e-5 * Math.max(1, Math.abs(numeric));
    return isClose ? [] : [`the slope of ${result} is ${analytic}, expected ${numeric}`];
  });
}

describe("the imported operator agrees with ONNX Runtime", () => {
  for (const [name, cases] of Object.entries(ALL)) {
    test(name, async () => {
      for (const one of cases) {
        const { given, attributes = {}, opset = 18, outputs = 1, range: [low, high] = [-1, 1] } = one;
        const names = given.map((one, i) => (one === "" ? "" : `x${i}`));
        const results = Array.from({ length: outputs }, (_, i) => `y${i}`);
        const varying = given.flatMap((one, i) =>
          Array.isArray(one) ? [[`x${i}`, one as readonly number[]] as const] : [],
        );
        const constants = given.flatMap((one, i) =>
          typeof one === "object" && "$typeName" in one ? [{ ...one, name: `x${i}` }] : [],
        );
        const bytes = model({
          nodes: [node(name, names, results, attributes)],
          inputs: Object.fromEntries(varying),
          outputs: results,
          initializers: constants,
          opset,
        });
        const path = join(scratch, "model.onnx");
        writeFileSync(path, bytes);
        const feeds = Object.fromEntries(
          varying.map(([at, shape]) => [
            at,
            {
              shape,
              data: Float64Array.from({ length: sizeOf(shape) }, () => Math.fround(low + (high - low) * rng.uniform())),
            },
          ]),
        );
        const session = await InferenceSession.create(bytes, { logSeverityLevel: 4 });
        const expected = await session.run(
          Object.fromEntries(
            Object.entries(feeds).map(([at, { shape, data }]) => [at, new Tensor(Float32Array.from(data), shape)]),
          ),
        );
        await session.release();
        const inputs = Object.fromEntries(varying.map(([at, shape]) => [at, input(shape)]));
        const imported = new OnnxImport(await openOnnx(path), inputs);
        const actual = interpret(
          { name, inputs, outputs: Object.fromEntries(results.map((result) => [result, imported.output(result)])) },
          feeds,
        );
        for (const result of results) {
          const what = `${name} ${JSON.stringify(attributes, (_, value) => (typeof value === "bigint" ? Number(value) : value))} ${result}`;
          expect(actual[result]?.shape, what).toEqual(expected[result]?.dims);
          const values = Array.from(expected[result]?.data as ArrayLike<number | bigint | boolean>, Number);
          const far = values.findIndex(
            (value, i) =>
              !(Math.abs((actual[result]?.data[i] as number) - value) <= 1e-5 * Math.max(1, Math.abs(value))),
          );
          expect(far < 0 ? "close" : `${actual[result]?.data[far]} instead of ${values[far]} at ${far}`, what).toBe(
            "close",
          );
        }
        if (one.isStraightThrough) continue;
        const built = Object.fromEntries(results.map((result) => [result, imported.output(result)]));
        for (const problem of gradientProblems(inputs, built, feeds)) throw new Error(`${name}: ${problem}`);
      }
    });
  }
});
