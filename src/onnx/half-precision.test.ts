import { describe, expect, test } from "vitest";
import { type Graph, topologicalOrder, verify } from "../graph/graph.js";
import { apply1, type OpDef, type TensorType, type Value } from "../graph/value.js";
import { add, cast, constant, cos, input, linear, mul, parameter, sub, sum } from "../ops/index.js";
import { halfPrecision } from "./half-precision.js";

const graphOf = (inputs: Record<string, Value>, outputs: Record<string, Value>): Graph => ({
  name: "example",
  inputs,
  outputs,
});

/** Each node that computes, with the types it reads and gives: `mul(float16, float16) → float16`. */
function steps(graph: Graph): string[] {
  verify(graph);
  return topologicalOrder(Object.values(graph.outputs))
    .filter(({ inputs }) => inputs.length > 0)
    .map(
      ({ op, inputs, outputs }) => `${op.name}(${inputs.map(({ dtype }) => dtype).join(", ")}) → ${outputs[0]?.dtype}`,
    );
}

describe("a graph in half precision", () => {
  test("keeps its inputs and outputs, and computes between them in halves", () => {
    const x = input([2]);
    const half = halfPrecision(graphOf({ x }, { y: mul(mul(x, x), 3) }));
    expect(half.inputs.x).toBe(x);
    expect(steps(half)).toEqual([
      "cast(float32) → float16",
      "mul(float16, float16) → float16",
      "mul(float16, float16) → float16",
      "cast(float16) → float32",
    ]);
  });

  test("reads weights as they lie where that is as halves, and casts the others", () => {
    const x = input([1, 2]);
    const weight = (name: string, dtype: "float16" | "float32" | "bfloat16") =>
      cast(parameter(name, [2, 2], dtype), "float32");
    const y = linear(linear(linear(x, weight("a", "float16")), weight("b", "float32")), weight("c", "bfloat16"));
    expect(steps(halfPrecision(graphOf({ x }, { y }))).filter((step) => step.startsWith("cast"))).toEqual([
      "cast(float32) → float16", // x
      "cast(float32) → float16", // b
      "cast(bfloat16) → float16", // c
      "cast(float16) → float32", // y
    ]);
  });

  test("leaves what depends on an exact input and constants alone in float32 until it meets another input", () => {
    const [t, x] = [input([1]), input([1])];
    const angle = mul(t, 0.31);
    const half = halfPrecision(graphOf({ t, x }, { y: add(cos(angle), x), angle }), { exact: ["t"] });
    expect(steps(half)).toEqual([
      "mul(float32, float32) → float32",
      "cos(float32) → float32",
      "cast(float32) → float16",
      "cast(float32) → float16",
      "add(float16, float16) → float16",
      "cast(float16) → float32",
    ]);
  });

  test("stays in float32 for constants that no half holds, too large, too small or not a normal one", () => {
    const x = input([1]);
    const first = (factor: number) => steps(halfPrecision(graphOf({ x }, { y: sub(mul(x, factor), x) })))[0];
    for (const factor of [65504, -(2 ** -14), 0, Number.NEGATIVE_INFINITY]) expect(first(factor)).toMatch(/^cast/);
    for (const factor of [65505, -1e9, 1e-5, 2 ** -20]) expect(first(factor)).toBe("mul(float32, float32) → float32");
  });

  test("adds up in float32, and makes no half between two steps that stay there", () => {
    const x = input([2, 3]);
    const y = sum(mul(sum(x, 1), 1e-6), 0);
    expect(steps(halfPrecision(graphOf({ x }, { y })))).toEqual([
      "sum(float32) → float32",
      "mul(float32, float32) → float32",
      "sum(float32) → float32",
    ]);
  });

  test("takes ops that it has never heard of", () => {
    const twice: OpDef<Record<string, never>> = {
      name: "twice",
      infer: ([x]) => [x as TensorType],
      emit: (w, [x]) => w.node("Add", [x as string, x as string]),
      evaluate: ([x]) => [{ shape: x?.shape ?? [], data: (x?.data ?? new Float64Array()).map((value) => 2 * value) }],
    };
    const x = input([2]);
    expect(steps(halfPrecision(graphOf({ x }, { y: apply1(twice, [x], {}) })))).toContain("twice(float16) → float16");
  });

  test("leaves whole numbers and truth values alone", () => {
    const x = input([3]);
    const y = cast(cast(x, "int32"), "float32");
    const exact = constant([1, 2, 3], [3], "int64");
    expect(steps(halfPrecision(graphOf({ x }, { y, exact })))).toEqual([
      "cast(float32) → float16",
      "cast(float16) → int32",
      "cast(int32) → float16",
      "cast(float16) → float32",
    ]);
  });
});
