/**
 * A graph in mixed precision (Micikevicius et al. 2018, "Mixed Precision Training", arXiv 1710.03740) by the rules of
 * torch.autocast: products run in float16, reductions and norms in float32, every other op in the widest type of its
 * inputs. Inputs and outputs of the graph stay float32. Each op says in its `OpDef` which rule it follows.
 */
import type { Graph } from "../graph/graph.js";
import { type Remake, rewrite, same } from "../graph/rewrite.js";
import { apply, type Node, type Value } from "../graph/value.js";
import { castOp } from "../ops/elementwise.js";
import { cast, constant } from "../ops/index.js";
import { constantOp, inputOp, parameterOp } from "../ops/source.js";
import { HALF_MAX, HALF_MIN_NORMAL, isFloating } from "../tensor/dtype.js";

export interface HalfOptions {
  /**
   * Names of inputs that are not cast to float16. The timestep is one: its angles (981 · frequency) would keep no digit
   * after the point.
   */
  readonly exact?: readonly string[];
}

/** The same graph in mixed precision. Apply it after differentiation. */
export function halfPrecision(graph: Graph, { exact = [] }: HalfOptions = {}): Graph {
  const exactInputs = new Set(exact.map((name) => graph.inputs[name]));
  /** Values computed from constants alone: they stay float32 and take the type of the values that they meet. */
  const constants = new Set<Value>();
  const halves = new Map<Value, Value>();
  const half = (value: Value): Value => {
    if (value.dtype !== "float32") return value;
    const known = halves.get(value) ?? halved(value);
    halves.set(value, known);
    return known;
  };
  const isWide = (value: Value) => value.dtype === "float32" && !constants.has(value);

  const remake: Remake = (node, inputs) => {
    const [y] = node.outputs as [Value];
    if (node.op === inputOp) return [exactInputs.has(y) ? y : half(y)];
    if (node.op === parameterOp) return [half(y)];
    if (inputs.every((value) => constants.has(value))) {
      const outputs = same(node, inputs);
      for (const value of outputs) constants.add(value);
      return outputs;
    }
    if (node.op === castOp && y.dtype === "float32") return [widened(inputs[0] as Value)];
    const { autocast } = node.op;
    const wide = autocast === "float32" || (autocast === undefined && inputs.some(isWide)) || !inputs.every(fitsHalf);
    return apply(node.op, inputs.map(wide ? whole : half), node.attrs);
  };

  const outputs = rewrite(graph.outputs, { remake });
  return { ...graph, outputs: Object.fromEntries(Object.entries(outputs).map(([name, y]) => [name, whole(y)])) };
}

/** A cast to float32: of a weight that is stored in 16 bits to float16 instead, of integers as it is. */
function widened(value: Value): Value {
  if (value.dtype === "float32") return value;
  return cast(value, isFloating(value.dtype) ? "float16" : "float32");
}

function halved(value: Value): Value {
  return isConstant(value.node) ? constant(value.node.attrs.values, value.shape, "float16") : cast(value, "float16");
}

/** The value in float32: where it is the cast of a float32 value, that value. */
function whole(value: Value): Value {
  if (value.dtype !== "float16") return value;
  const [made] = value.node.inputs;
  return value.node.op === castOp && made?.dtype === "float32" ? made : cast(value, "float32");
}

/** Whether float16 represents a constant: values beyond its range or below its normal numbers do not fit. */
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
