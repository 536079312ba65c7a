import { describe, expect, test } from "vitest";
import { type Graph, topologicalOrder, verify } from "../graph/graph.js";
import { interpret } from "../graph/interpret.js";
import type { F64Array, Value } from "../graph/value.js";
import {
  add,
  concat,
  conv2d,
  groupNorm,
  input,
  layerNorm,
  linear,
  mul,
  parameter,
  reshape,
  sigmoid,
  silu,
  slice,
  softmax,
  transpose,
} from "../ops/index.js";
import { Rng } from "../tensor/rng.js";
import { sizeOf } from "../tensor/shape.js";
import { gradients } from "./gradients.js";
import { splitAtResiduals } from "./residuals.js";

/** The joint graph of y and the gradients of Σ ⟨y, upstream⟩ with respect to some of the inputs. */
function jointOf(inputs: Record<string, Value>, y: Value, wrt: readonly string[]): Graph {
  const upstream = input(y.shape);
  const found = gradients(
    [{ value: y, gradient: upstream }],
    wrt.map((name) => inputs[name] as Value),
  );
  const named = found.map((gradient, i) => [`d_${wrt[i]}`, gradient as Value] as const);
  return { name: "joint", inputs: { ...inputs, upstream }, outputs: { y, ...Object.fromEntries(named) } };
}

const parameterOf = (name: string, ...shape: number[]) => parameter(name, shape, "float32");

/** An inner extent that makes a product expensive. */
const WIDE = 130;

/** A small network of the parts of a U-Net: a ResNet block, a Linear with an adapter, a gate and skip connections. */
function smallNet(): Graph {
  const [x, a, b] = [input([2, WIDE, 2, 1]), input([2, WIDE]), input([WIDE, 2])];
  const normed = silu(groupNorm(x, 2, { scale: parameterOf("g", WIDE), bias: parameterOf("h", WIDE) }));
  const h = add(conv2d(normed, parameterOf("w", WIDE, WIDE, 3, 1), undefined, { padding: [1, 0, 1, 0] }), x);
  const tokens = transpose(reshape(h, [2, WIDE, 2]), [0, 2, 1]);
  const normal = layerNorm(tokens, parameterOf("s", WIDE), parameterOf("t", WIDE));
  const q = add(linear(normal, parameterOf("q", WIDE, WIDE)), linear(linear(normal, a), b));
  const gate = linear(softmax(q), parameterOf("v", 8, WIDE));
  const mixed = mul(slice(gate, 2, [0, 4]), sigmoid(slice(gate, 2, [4, 8])));
  const y = linear(concat([mixed, tokens], 2), parameterOf("o", 2, WIDE + 4));
  return jointOf({ x, a, b }, y, ["x", "a", "b"]);
}

function randoms(values: Readonly<Record<string, Value>>): Record<string, F64Array> {
  return Object.fromEntries(
    Object.entries(values).map(([name, { shape }], i) => [
      name,
      { shape, data: Float64Array.from(new Rng(7, i).normals(sizeOf(shape))) },
    ]),
  );
}

function weights(graph: Graph): (name: string) => F64Array | undefined {
  const nodes = topologicalOrder(Object.values(graph.outputs)).filter(({ op }) => op.name === "parameter");
  const all = randoms(
    Object.fromEntries(nodes.map(({ attrs, outputs }) => [(attrs as { name: string }).name, outputs[0] as Value])),
  );
  return (name) => all[name];
}

const opsOf = ({ outputs }: Graph) => topologicalOrder(Object.values(outputs)).map(({ op }) => op.name);
const savedShapes = ({ forward, residuals }: ReturnType<typeof splitAtResiduals>) =>
  residuals.map((name) => forward.outputs[name]?.shape);

describe("a split graph", () => {
  test("computes the outputs and gradients of the joint graph", () => {
    const joint = smallNet();
    const { forward, backward, residuals } = splitAtResiduals(joint, ["y"]);
    verify(forward);
    verify(backward);
    const feeds = randoms(joint.inputs);
    const whole = interpret(joint, feeds, weights(joint));
    const forwardRun = interpret(forward, feeds, weights(joint));
    const backwardRun = interpret(backward, { ...feeds, ...forwardRun }, weights(joint));
    expect(residuals.length).toBeGreaterThan(0);
    expect(forwardRun.y).toEqual(whole.y);
    for (const name of ["d_x", "d_a", "d_b"]) expect(backwardRun[name]).toEqual(whole[name]);
  });

  test("reads the upstream gradient only in the backward graph, and computes nothing expensive twice", () => {
    const joint = smallNet();
    const { forward, backward } = splitAtResiduals(joint, ["y"]);
    expect(Object.keys(forward.inputs)).toEqual(["x", "a", "b"]);
    const count = (graph: Graph, name: string) => opsOf(graph).filter((op) => op === name).length;
    for (const op of ["conv2d", "softmax"]) expect(count(forward, op) + count(backward, op)).toBe(count(joint, op));
    // The adapter's second product has an inner extent of 2.
    expect(count(forward, "gemm") + count(backward, "gemm")).toBeLessThanOrEqual(count(joint, "gemm") + 1);
  });
});

describe("the saved residual", () => {
  const x = input([2, WIDE]);
  const split = (y: Value) => splitAtResiduals(jointOf({ x }, y, ["x"]), ["y"]);

  test("does not exist if the gradient reads only inputs and weights", () => {
    expect(split(linear(linear(x, parameterOf("a", WIDE, WIDE)), parameterOf("b", 5, WIDE))).residuals).toEqual([]);
  });

  test("is a single value for a chain of elementwise ops, even if the gradient reads several of them", () => {
    // The gradient reads σ, silu and both factors. All of them follow from the output of the Linear.
    const h = linear(x, parameterOf("a", 4, WIDE));
    const found = split(mul(silu(h), sigmoid(mul(h, 2))));
    expect(savedShapes(found)).toEqual([[2, 4]]);
    expect(found.residualBytes).toBe(2 * 4 * 4);
  });

  test("is the slice that is read, not the larger value that it is taken from", () => {
    const part = slice(linear(x, parameterOf("a", 100, WIDE)), 1, [0, 5]);
    expect(savedShapes(split(mul(part, part)))).toEqual([[2, 5]]);
  });

  test("is the input of a reshape, not its output", () => {
    const flat = reshape(linear(x, parameterOf("a", 4, WIDE)), [8]);
    expect(savedShapes(split(mul(flat, flat)))).toEqual([[2, 4]]);
  });

  test("is the input of a product that is cheaper to repeat than to save", () => {
    const narrow = linear(x, parameterOf("a", 4, WIDE));
    const wide = linear(narrow, parameterOf("b", 100, 4));
    expect(savedShapes(split(mul(wide, wide)))).toEqual([[2, 4]]);
  });
});
