import { topologicalOrder } from "../graph/graph.js";
import type { Node, Value } from "../graph/value.js";
import type { OPS, OpName } from "../ops/table.js";
import { isFloating } from "../tensor/dtype.js";
import { sameShape, showShape } from "../tensor/shape.js";
import type { Rule, RuleNode, Rules } from "./rule.js";
import { attentionRules } from "./rules/attention.js";
import { convRules } from "./rules/conv.js";
import { elementwiseRules } from "./rules/elementwise.js";
import { matmulRules } from "./rules/matmul.js";
import { movementRules, sumOfGradients, sumTo } from "./rules/movement.js";
import { normRules } from "./rules/norm.js";
import { reduceRules } from "./rules/reduce.js";
import { selectRules } from "./rules/select.js";

/** Complete by its type: an op without a rule does not compile. */
const RULES: Rules<typeof OPS> = {
  input: "nondifferentiable",
  parameter: "nondifferentiable",
  constant: "nondifferentiable",
  ...elementwiseRules,
  ...reduceRules,
  ...movementRules,
  ...matmulRules,
  ...convRules,
  ...normRules,
  ...selectRules,
  ...attentionRules,
};

/** The nodes between `wrt` and the outputs that no gradient passes: what to name where none arrives. */
export function undifferentiable(outputs: readonly Value[], wrt: readonly Value[]): Node[] {
  const active = new Set(wrt.map(({ node }) => node));
  const stops = new Set<Node>();
  for (const node of topologicalOrder(outputs)) {
    const read = node.inputs.filter((value) => active.has(value.node));
    if (read.length === 0) continue;
    active.add(node);
    if (RULES[node.op.name as OpName] === "nondifferentiable") stops.add(node);
    // Whole numbers and truths have no gradient, whatever made them.
    for (const { dtype, node: maker } of read) if (!isFloating(dtype)) stops.add(maker);
  }
  for (const { dtype, node } of outputs) if (active.has(node) && !isFloating(dtype)) stops.add(node);
  return [...stops];
}

export interface Cotangent {
  readonly value: Value;
  /** The gradient of some scalar with respect to `value`, of its shape. */
  readonly gradient: Value;
}

/**
 * Reverse mode, graph to graph: the gradients of Σ ⟨value, gradient⟩ with respect to each of `wrt`. Follows only paths from
 * `wrt`, so frozen weights cost nothing. undefined where no path leads.
 */
export function gradients(outputs: readonly Cotangent[], wrt: readonly Value[]): (Value | undefined)[] {
  const order = topologicalOrder(outputs.map(({ value }) => value));
  const wanted = new Set(wrt);
  const active = new Set<Node>();
  const matters = (value: Value) => wanted.has(value) || active.has(value.node);
  for (const node of order) if (node.inputs.some(matters)) active.add(node);

  const total = new Map<Value, Value>();
  const accumulate = (value: Value, gradient: Value) => {
    const summed = sameShape(gradient.shape, value.shape) ? gradient : sumTo(gradient, value.shape);
    const before = total.get(value);
    total.set(value, before ? sumOfGradients(before, summed) : summed);
  };
  for (const { value, gradient } of outputs) {
    if (!sameShape(value.shape, gradient.shape)) {
      throw new TypeError(
        `gradients: the upstream ${showShape(gradient.shape)} is not of the value's shape ${showShape(value.shape)}`,
      );
    }
    if (matters(value)) accumulate(value, gradient);
  }
  for (const node of order.reverse()) {
    if (!active.has(node)) continue;
    const [y, ...others] = node.outputs as [Value, ...Value[]];
    const second = others.find((value) => total.has(value));
    if (second) throw new TypeError(`gradients: ${node.op.name} has no gradient through its output ${second.index}`);
    const dy = total.get(y);
    if (!dy) continue;
    const rule = RULES[node.op.name as OpName] as Rule<unknown> | "nondifferentiable" | undefined;
    if (!rule) throw new TypeError(`gradients: ${node.op.name} has no gradient rule`);
    if (rule === "nondifferentiable") continue;
    const { inputs, outputs, attrs } = node;
    const thunks = rule(dy, { inputs, y, outputs, attrs } as unknown as RuleNode<unknown>);
    for (const [i, input] of inputs.entries()) {
      const gradient = thunks[i];
      if (gradient && matters(input)) accumulate(input, gradient());
    }
  }
  return wrt.map((value) => total.get(value));
}
