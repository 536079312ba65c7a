import { describe, expect, test } from "vitest";
import { type Graph, topologicalOrder } from "../graph/graph.js";
import { interpret } from "../graph/interpret.js";
import type { Value } from "../graph/value.js";
import {
  add,
  cast,
  constant,
  conv2d,
  gather,
  greater,
  input,
  layerNorm,
  linear,
  mul,
  parameter,
  pow,
  slice,
  sum,
  where,
} from "../ops/index.js";
import type { OPS } from "../ops/table.js";
import type { Shape } from "../tensor/shape.js";
import { gradients } from "./gradients.js";
import type { Rules } from "./rule.js";

/** Names of all ops that the values depend on. */
const opsOf = (...values: (Value | undefined)[]) =>
  topologicalOrder(values.filter((value) => value !== undefined)).map(({ op }) => op.name);

const count = (ops: readonly string[], name: string) => ops.filter((op) => op === name).length;

const ones = (shape: Shape) => constant(new Array(shape.reduce((a, b) => a * b, 1)).fill(1), shape);

function evaluate(value: Value | undefined, feeds: Record<string, [Value, number[]]>): number[] {
  if (!value) throw new Error("no gradient");
  const graph: Graph = {
    name: "gradient",
    inputs: Object.fromEntries(Object.entries(feeds).map(([name, [at]]) => [name, at])),
    outputs: { value },
  };
  const given = Object.entries(feeds).map(
    ([name, [{ shape }, data]]) => [name, { shape, data: Float64Array.from(data) }] as const,
  );
  return [...(interpret(graph, Object.fromEntries(given)).value?.data ?? [])];
}

describe("the cost of a gradient", () => {
  test("the backward pass of a frozen Linear takes one product, that of a trainable one two", () => {
    const [x, weight, bias] = [
      input([8, 4]),
      parameter("weight", [3, 4], "float32"),
      parameter("bias", [3], "float32"),
    ];
    const y = linear(x, weight, bias);
    const upstream = [{ value: y, gradient: input([8, 3]) }];
    const [dx] = gradients(upstream, [x]);
    // dx = dy W reads the weight, but no value of the forward pass.
    expect(opsOf(dx)).toEqual(["input", "parameter", "gemm"]);
    const trainable = gradients(upstream, [x, weight, bias]);
    expect(count(opsOf(...trainable), "gemm")).toBe(2);
    expect(trainable.map((gradient) => gradient?.shape)).toEqual([[8, 4], [3, 4], [3]]);
  });

  test("a frozen convolution has no weight gradient", () => {
    const [x, weight] = [input([1, 2, 5, 5]), parameter("weight", [3, 2, 3, 3], "float32")];
    const y = conv2d(x, weight, undefined, { padding: 1 });
    const [dx] = gradients([{ value: y, gradient: input(y.shape) }], [x]);
    const forward = count(opsOf(dx), "conv2d") + count(opsOf(dx), "convTranspose2d");
    const [dWeight] = gradients([{ value: y, gradient: input(y.shape) }], [weight]);
    expect(forward).toBe(1);
    expect(opsOf(dWeight)).not.toContain("parameter");
  });

  test("ops before the first trainable value cost nothing", () => {
    const image = input([1, 4]);
    const frozen = linear(linear(image, parameter("a", [4, 4], "float32")), parameter("b", [4, 4], "float32"));
    const scale = input([4]);
    const y = mul(frozen, scale);
    const [dScale] = gradients([{ value: y, gradient: input(y.shape) }], [scale]);
    // The two products are those of the forward pass, which dScale = dy · frozen reads.
    expect(count(opsOf(dScale), "gemm")).toBe(2);
  });
});

describe("accumulation", () => {
  test("concatenates the gradients of two slices that cover a value, and adds those of overlapping slices", () => {
    const x = input([2, 4]);
    const slices = [slice(x, 1, [0, 2]), slice(x, 1, [2, 4])].map((value) => ({ value, gradient: input([2, 2]) }));
    for (const order of [slices, [...slices].reverse()]) expect(opsOf(...gradients(order, [x]))).not.toContain("pad");
    // y = (x₀ x₁, x₁ x₂): dx = (x₁, x₀ + x₂, x₁)
    const z = input([1, 3]);
    const y = mul(slice(z, 1, [0, 2]), slice(z, 1, [1, 3]));
    const [dz] = gradients([{ value: y, gradient: ones([1, 2]) }], [z]);
    expect(evaluate(dz, { z: [z, [2, 3, 5]] })).toEqual([3, 7, 3]);
  });

  test("sums over all uses of a value", () => {
    const x = input([2]);
    // y = x² + 5 x → dy/dx = 2 x + 5
    const y = add(mul(x, x), mul(x, 5));
    const [dx] = gradients([{ value: y, gradient: ones([2]) }], [x]);
    expect(evaluate(dx, { x: [x, [3, -1]] })).toEqual([11, 3]);
  });

  test("sums over several outputs, one of which depends on another", () => {
    const x = input([1]);
    const square = pow(x, 2);
    const cube = mul(square, x);
    // 2 d(x²) + 3 d(x³) = 4 x + 9 x²
    const [dx] = gradients(
      [
        { value: square, gradient: constant([2], [1]) },
        { value: cube, gradient: constant([3], [1]) },
      ],
      [x],
    );
    expect(evaluate(dx, { x: [x, [2]] })).toEqual([44]);
  });

  test("sums over every axis that broadcasting added or repeated", () => {
    const [x, row, column, scalar] = [input([2, 3]), input([3]), input([2, 1]), input([])];
    const y = mul(add(add(x, row), column), scalar);
    const upstream = constant([1, 2, 3, 4, 5, 6], [2, 3]);
    const found = gradients([{ value: y, gradient: upstream }], [x, row, column, scalar]);
    expect(found.map((gradient) => gradient?.shape)).toEqual([[2, 3], [3], [2, 1], []]);
    const feeds: Record<string, [Value, number[]]> = {
      x: [x, [1, 0, 0, 0, 0, 1]],
      row: [row, [0, 0, 0]],
      column: [column, [0, 0]],
      scalar: [scalar, [10]],
    };
    expect(evaluate(found[1], feeds)).toEqual([50, 70, 90]);
    expect(evaluate(found[2], feeds)).toEqual([60, 150]);
    // Σ upstream · x
    expect(evaluate(found[3], feeds)).toEqual([7]);
  });

  test("gives the upstream gradient for an output itself, and the product of derivatives for earlier values", () => {
    const x = input([1]);
    const middle = mul(x, 3);
    const y = mul(middle, 2);
    const upstream = ones([1]);
    const [dy, dMiddle, dx] = gradients([{ value: y, gradient: upstream }], [y, middle, x]);
    expect(dy).toBe(upstream);
    expect(evaluate(dMiddle, {})).toEqual([2]);
    expect(evaluate(dx, {})).toEqual([6]);
  });
});

describe("without a differentiable path", () => {
  test("the gradient is undefined", () => {
    const [x, other] = [input([2]), input([2])];
    const y = mul(x, 2);
    expect(gradients([{ value: y, gradient: ones([2]) }], [other])).toEqual([undefined]);
    expect(gradients([], [x])).toEqual([undefined]);
  });

  test("comparisons, indices and integers stop the gradient", () => {
    const [x, indices] = [input([2]), input([2], "int64")];
    const outputs = [
      where(greater(x, 0), ones([2]), 0),
      gather(ones([3]), indices),
      cast(cast(x, "int32"), "float32"),
    ].map((value) => ({ value, gradient: ones([2]) }));
    expect(gradients(outputs, [x, indices])).toEqual([undefined, undefined]);
  });
});

test("an upstream gradient must have the shape of its value", () => {
  const x = input([2]);
  expect(() => gradients([{ value: mul(x, 2), gradient: ones([3]) }], [x])).toThrow(
    /the upstream gradient has shape \[3\], but its value has \[2\]/,
  );
});

test("a gradient through the second output of an op is an error, because rules differentiate only the first", () => {
  const x = input([2, 4]);
  const { node } = layerNorm(x, ones([4]), ones([4]));
  const mean = node.outputs[1] as Value;
  expect(() => gradients([{ value: sum(mean, [0, 1]), gradient: ones([]) }], [x])).toThrow(
    "gradients: layerNorm is not differentiable through its output 1",
  );
});

test("a table of rules that lacks an op does not compile", () => {
  // @ts-expect-error exp has no rule
  const incomplete: Rules<Pick<typeof OPS, "neg" | "exp">> = { neg: (dy) => [() => dy] };
  expect(Object.keys(incomplete)).toEqual(["neg"]);
});
