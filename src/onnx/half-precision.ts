/**
 * A graph in mixed precision (Micikevicius et al. 2018, "Mixed Precision Training", arXiv 1710.03740): the same inputs and
 * outputs in float32, and what happens between them in float16. No op is known here by name but the sources of values and
 * `cast`: every other one is applied again to halves, and says itself (`OpDef`) where it has to stay in float32.
 */
import type { Graph } from "../graph/graph.js";
import { type Remake, rewrite, same } from "../graph/rewrite.js";
import { apply, type Node, type Value } from "../graph/value.js";
import { castOp } from "../ops/elementwise.js";
import { cast, constant } from "../ops/index.js";
import { constantOp, inputOp, parameterOp } from "../ops/source.js";
import { HALF_MAX, HALF_MIN_NORMAL } from "../tensor/dtype.js";

export interface HalfOptions {
  /**
   * Inputs such as the timestep, of whose angles (981 · frequency) a half would leave only the first digits: what is computed
   * from them and constants alone stays in float32 until it meets a weight or another input.
   */
  readonly exact?: readonly string[];
}

export function halfPrecision(graph: Graph, { exact = [] }: HalfOptions = {}): Graph {
  const exactInputs = new Set(exact.map((name) => graph.inputs[name]));
  /** What stays as it is. */
  const exactValues = new Set<Value>();
  const halves = new Map<Value, Value>();
  const half = (value: Value): Value => {
    if (value.dtype !== "float32") return value;
    const known = halves.get(value) ?? halved(value);
    halves.set(value, known);
    return known;
  };

  const remake: Remake = (node, inputs) => {
    const [y] = node.outputs as [Value];
    switch (node.op) {
      case inputOp:
        if (!exactInputs.has(y)) return [half(y)];
        exactValues.add(y);
        return [y];
      case parameterOp:
        return [half(y)];
      case castOp:
        if (y.dtype !== "float32" || inputs.every((value) => exactValues.has(value))) break;
        return [cast(inputs[0] as Value, "float16")];
    }
    if (inputs.every((value) => exactValues.has(value))) {
      const outputs = same(node, inputs);
      for (const value of outputs) exactValues.add(value);
      return outputs;
    }
    if (node.op.sums || !inputs.every(fitsHalf)) return apply(node.op, inputs.map(whole), node.attrs).map(half);
    return apply(node.op, inputs.map(half), node.attrs);
  };

  const outputs = rewrite(graph.outputs, { remake });
  return { ...graph, outputs: Object.fromEntries(Object.entries(outputs).map(([name, y]) => [name, whole(y)])) };
}

function halved(value: Value): Value {
  return isConstant(value.node) ? constant(value.node.attrs.values, value.shape, "float16") : cast(value, "float16");
}

/** The float32 value, of which a half may have been made just before. */
function whole(value: Value): Value {
  if (value.dtype !== "float16") return value;
  const [made] = value.node.inputs;
  return value.node.op === castOp && made?.dtype === "float32" ? made : cast(value, "float32");
}

/** Whether a half holds the value's digits: computed ones are taken to be of ordinary size, constants are looked at. */
function fitsHalf({ dtype, node }: Value): boolean {
  if (dtype !== "float32" || !isConstant(node)) return true;
  return Array.from(node.attrs.values).every((value) => {
    const size = Math.abs(value);
    return size === 0 || !Number.isFinite(size) || (size >= HALF_MIN_NORMAL && size <= HALF_MAX);
  });
}

function isConstant(node: Node): node is Node<{ values: ArrayLike<number> }> {
  return node.op === constantOp;
}
