import { describe, expect, test } from "vitest";
import { gradients } from "../autodiff/index.js";
import { add, input, layerNorm, mul, parameter } from "../ops/index.js";
import { type Graph, print, topologicalOrder, verify } from "./graph.js";
import { interpret } from "./interpret.js";
import type { Node, Value } from "./value.js";

const graphOf = (inputs: Record<string, Value>, outputs: Record<string, Value>): Graph => ({
  name: "example",
  inputs,
  outputs,
});

/** `value` with the outputs of its node replaced, as a faulty rewrite would leave them. */
function withOutputs(value: Value, outputs: (node: Node) => Value[]): Value {
  const node: Node = { ...value.node, outputs: [] };
  (node as { outputs: readonly Value[] }).outputs = outputs(node);
  return node.outputs[value.index] ?? { ...value, node };
}

describe("topologicalOrder", () => {
  test("lists each node once, after the nodes that it reads", () => {
    const x = input([2]);
    const shared = mul(x, x);
    const y = add(mul(shared, shared), shared);
    const order = topologicalOrder([y, shared]);
    expect(order.map(({ op }) => op.name)).toEqual(["input", "mul", "mul", "add"]);
    for (const [at, node] of order.entries()) {
      for (const { node: read } of node.inputs) expect(order.indexOf(read)).toBeLessThan(at);
    }
  });

  test("handles a chain of 50,000 nodes, as do gradients, verify, interpret and print", () => {
    const x = input([1]);
    let y = x;
    for (let i = 0; i < 50_000; i++) y = add(y, x);
    expect(topologicalOrder([y])).toHaveLength(50_001);
    const [dx] = gradients([{ value: y, gradient: x }], [x]) as [Value];
    const graph = graphOf({ x }, { y, dx });
    verify(graph);
    const results = interpret(graph, { x: { shape: [1], data: Float64Array.of(1) } });
    // y = 50,001 x, and the upstream gradient is x = 1
    expect([results.y?.data[0], results.dx?.data[0]]).toEqual([50_001, 50_001]);
    expect(print(graph).split("\n").length).toBeGreaterThan(50_000);
  });
});

describe("verify", () => {
  test("accepts a valid graph, with an unused input and a parameter that is read twice", () => {
    const x = input([2]);
    const y = add(mul(x, parameter("w", [2], "float32")), parameter("w", [2], "float32"));
    expect(() => verify(graphOf({ x, unused: input([1]) }, { y }))).not.toThrow();
  });

  test("finds an input that is read but not declared", () => {
    const x = input([2]);
    expect(() => verify(graphOf({ x }, { y: add(x, input([3, 1])) }))).toThrow(
      "graph example: an input float32[3, 1] is read but not declared",
    );
  });

  test("finds an input that is the output of an op", () => {
    const x = mul(input([2]), 2);
    expect(() => verify(graphOf({ x }, { y: add(x, x) }))).toThrow("graph example: input x is the output of mul");
  });

  test("finds a parameter that is read with two types", () => {
    const y = add(parameter("unet.w", [2], "float32"), parameter("unet.w", [1], "float32"));
    expect(() => verify(graphOf({}, { y }))).toThrow(
      "graph example: parameter unet.w is read as float32[2] and as float32[1]",
    );
  });

  test("finds a value whose type is not the one that its op infers", () => {
    const x = input([2]);
    const y = mul(x, x);
    const wrong = withOutputs(y, (node) => [{ ...y, node, shape: [3] }]);
    expect(() => verify(graphOf({ x }, { y: wrong }))).toThrow(
      "graph example: mul output 0 is float32[3], but the op infers float32[2]",
    );
  });

  test("finds a node that lacks one of the outputs of its op", () => {
    const x = input([2, 4]);
    const y = layerNorm(x, parameter("scale", [4], "float32"), parameter("bias", [4], "float32"));
    const wrong = withOutputs(y, (node) => [{ ...y, node }]);
    expect(() => verify(graphOf({ x }, { y: wrong }))).toThrow(
      "graph example: layerNorm output 1 is missing, but the op infers float32[2, 1]",
    );
  });

  test("finds a name that an input and an output share", () => {
    const x = input([2]);
    expect(() => verify(graphOf({ x }, { x: mul(x, 2) }))).toThrow(
      "graph example: x names both an input and an output",
    );
  });
});

test("print lists each node with names, types and attributes, but no values", () => {
  const x = input([2, 3]);
  const y = mul(add(x, parameter("bias", [3], "float32")), 2);
  expect(print(graphOf({ x }, { y, again: y }))).toBe(
    [
      '%1: float32[3] = parameter() {"name":"bias","shape":[3],"dtype":"float32"}',
      "%2: float32[2, 3] = add(x, %1) {}",
      '%3: float32[] = constant() {"values":"…","shape":[],"dtype":"float32"}',
      "%4: float32[2, 3] = mul(%2, %3) {}",
      "y ← %4",
      "again ← %4",
    ].join("\n"),
  );
});
