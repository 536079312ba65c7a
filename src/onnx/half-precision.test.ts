import { describe, expect, test } from "vitest";
import { gradients } from "../autodiff/index.js";
import { type Graph, topologicalOrder, verify } from "../graph/graph.js";
import { apply1, type OpDef, type TensorType, type Value } from "../graph/value.js";
import {
  add,
  cast,
  constant,
  conv2d,
  cos,
  groupNorm,
  input,
  linear,
  matmul,
  mul,
  parameter,
  silu,
  softmax,
  sub,
  sum,
} from "../ops/index.js";
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
  test("keeps inputs and outputs in float32 and computes between them in float16", () => {
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

  test("reads weights that are stored as float16 without a cast, and casts the others", () => {
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

  test("computes from an exact input in float32, up to the next product", () => {
    const [t, x] = [input([1, 1]), input([1, 1])];
    const half = halfPrecision(graphOf({ t, x }, { y: matmul(cos(mul(t, 0.31)), x) }), { exact: ["t"] });
    expect(steps(half)).toEqual([
      "mul(float32, float32) → float32",
      "cos(float32) → float32",
      "cast(float32) → float16",
      "cast(float32) → float16",
      "gemm(float16, float16) → float16",
      "cast(float16) → float32",
    ]);
  });

  test("computes norms and what follows them in float32, up to the next product", () => {
    const [x, scale, kernel] = [input([1, 4, 2, 2]), input([4]), input([4, 4, 1, 1])];
    const y = conv2d(silu(groupNorm(x, 2, { scale, bias: scale })), kernel);
    const half = steps(halfPrecision(graphOf({ x, scale, kernel }, { y })));
    for (const step of ["standardize(float32)", "silu(float32)"]) expect(half).toContain(`${step} → float32`);
    expect(half).toContain("conv2d(float16, float16) → float16");
  });

  test("computes the gradients of norms and of softmax in float32, and those of products in float16", () => {
    const [x, scale, weight, upstream] = [input([1, 4, 1, 1]), input([4]), input([4, 4]), input([4, 4])];
    const normal = groupNorm(x, 2, { scale, bias: scale });
    const y = matmul(softmax(add(matmul(weight, weight), sum(normal, [0, 2, 3]))), weight);
    const [dx, dWeight] = gradients([{ value: y, gradient: upstream }], [x, weight]) as [Value, Value];
    const half = steps(halfPrecision(graphOf({ x, scale, weight, upstream }, { dx, dWeight })));
    const arithmetic = half.filter((step) => /^(sub|mul|mean|sum)/.test(step));
    expect(arithmetic.length).toBeGreaterThan(5);
    for (const step of arithmetic) expect(step).toMatch(/→ float32$/);
    const products = half.filter((step) => step.startsWith("gemm"));
    expect(products.length).toBeGreaterThan(3);
    for (const step of products) expect(step).toBe("gemm(float16, float16) → float16");
  });

  test("computes in float32 with constants outside of float16's range or below its normal numbers", () => {
    const x = input([1]);
    const first = (factor: number) => steps(halfPrecision(graphOf({ x }, { y: sub(mul(x, factor), x) })))[0];
    for (const factor of [65504, -(2 ** -14), 0, Number.NEGATIVE_INFINITY]) expect(first(factor)).toMatch(/^cast/);
    for (const factor of [65505, -1e9, 1e-5, 2 ** -20]) expect(first(factor)).toBe("mul(float32, float32) → float32");
  });

  test("sums in float32, without a round trip through float16 between two float32 ops", () => {
    const x = input([2, 3]);
    const y = sum(mul(sum(x, 1), 1e-6), 0);
    expect(steps(halfPrecision(graphOf({ x }, { y })))).toEqual([
      "sum(float32) → float32",
      "mul(float32, float32) → float32",
      "sum(float32) → float32",
    ]);
  });

  test("applies an unknown op to float16", () => {
    const twice: OpDef<Record<string, never>> = {
      name: "twice",
      infer: ([x]) => [x as TensorType],
      emit: (w, [x]) => w.node("Add", [x as string, x as string]),
      evaluate: ([x]) => [{ shape: x?.shape ?? [], data: (x?.data ?? new Float64Array()).map((value) => 2 * value) }],
    };
    const x = input([2]);
    expect(steps(halfPrecision(graphOf({ x }, { y: apply1(twice, [x], {}) })))).toContain("twice(float16) → float16");
  });

  test("leaves integers alone, and casts them to float32 where the graph does", () => {
    const x = input([3]);
    const y = cast(cast(x, "int32"), "float32");
    const exact = constant([1, 2, 3], [3], "int64");
    expect(steps(halfPrecision(graphOf({ x }, { y, exact })))).toEqual([
      "cast(float32) → float16",
      "cast(float16) → int32",
      "cast(int32) → float32",
    ]);
  });
});
