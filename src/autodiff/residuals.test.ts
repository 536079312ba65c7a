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

/** y and the gradients of Σ ⟨y, upstream⟩ in some of the inputs. */
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

/** Too many to multiply by twice. */
const WIDE = 130;

/** A ResNet block, attention with an adapter, a gate and skip connections: what a U-Net is made of, small. */
function smallNet(): Graph {
  const [x, a, b] = [input([2, WIDE, 2, 1]), input([2, WIDE]), input([WIDE, 2])];
  const normed = silu(groupNorm(x, 2, parameterOf("g", WIDE), parameterOf("h", WIDE)));
  const h = add(conv2d(normed, parameterOf("w", WIDE, WIDE, 3, 1), undefined, { padding: [1, 0, 1, 0] }), x);
  const tokens = transpose(reshape(h, [2, WIDE, 2]), [0, 2, 1]);
  const normal = layerNorm(tokens, parameterOf("s", WIDE), parameterOf("t", WIDE));
  const q = add(linear(normal, parameterOf("q", WIDE, WIDE)), linear(linear(normal, a), b));
  const gate = linear(softmax(q), parameterOf("v", 8, WIDE));
  const mixed = mul(slice(gate, 2, 0, 4), sigmoid(slice(gate, 2, 4, 8)));
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
const keptShapes = ({ forward, residuals }: ReturnType<typeof splitAtResiduals>) =>
  residuals.map((name) => forward.outputs[name]?.shape);

describe("a split graph", () => {
  test("gives the joint graph's outputs and gradients", () => {
    const joint = smallNet();
    const { forward, backward, residuals } = splitAtResiduals(joint, ["y"]);
    verify(forward);
    verify(backward);
    const feeds = randoms(joint.inputs);
    const whole = interpret(joint, feeds, weights(joint));
    const ahead = interpret(forward, feeds, weights(joint));
    const back = interpret(backward, { ...feeds, ...ahead }, weights(joint));
    expect(residuals.length).toBeGreaterThan(0);
    expect(ahead.y).toEqual(whole.y);
    for (const name of ["d_x", "d_a", "d_b"]) expect(back[name]).toEqual(whole[name]);
  });

  test("asks for the upstream on the way back alone, and does nothing expensive twice", () => {
    const joint = smallNet();
    const { forward, backward } = splitAtResiduals(joint, ["y"]);
    expect(Object.keys(forward.inputs)).toEqual(["x", "a", "b"]);
    const count = (graph: Graph, name: string) => opsOf(graph).filter((op) => op === name).length;
    for (const op of ["conv2d", "softmax"]) expect(count(forward, op) + count(backward, op)).toBe(count(joint, op));
    // The adapter's second product has an inner extent of 2.
    expect(count(forward, "gemm") + count(backward, "gemm")).toBeLessThanOrEqual(count(joint, "gemm") + 1);
  });
});

describe("what is kept", () => {
  const x = input([2, WIDE]);
  const split = (y: Value) => splitAtResiduals(jointOf({ x }, y, ["x"]), ["y"]);

  test("is nothing where the gradient reads only inputs and weights", () => {
    expect(split(linear(linear(x, parameterOf("a", WIDE, WIDE)), parameterOf("b", 5, WIDE))).residuals).toEqual([]);
  });

  test("is one array of a chain of elementwise functions, however many of its values the gradient reads", () => {
    // d reads σ, silu and both factors: all follow from the Linear's output.
    const h = linear(x, parameterOf("a", 4, WIDE));
    const found = split(mul(silu(h), sigmoid(mul(h, 2))));
    expect(keptShapes(found)).toEqual([[2, 4]]);
    expect(found.residualBytes).toBe(2 * 4 * 4);
  });

  test("is the smaller side: a slice that is read, and not the whole that it is a part of", () => {
    const part = slice(linear(x, parameterOf("a", 100, WIDE)), 1, 0, 5);
    expect(keptShapes(split(mul(part, part)))).toEqual([[2, 5]]);
  });

  test("is what a reshape views, not its copy", () => {
    const flat = reshape(linear(x, parameterOf("a", 4, WIDE)), [8]);
    expect(keptShapes(split(mul(flat, flat)))).toEqual([[2, 4]]);
  });

  test("is the input of a product that costs no more than keeping its result", () => {
    const narrow = linear(x, parameterOf("a", 4, WIDE));
    const wide = linear(narrow, parameterOf("b", 100, 4));
    expect(keptShapes(split(mul(wide, wide)))).toEqual([[2, 4]]);
  });
});
