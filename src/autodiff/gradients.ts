import { topologicalOrder } from "../graph/graph.js";
import type { Node, Value } from "../graph/value.js";
import type { OPS, OpName } from "../ops/table.js";
import { isFloating } from "../tensor/dtype.js";
import { sameShape, showShape } from "../tensor/shape.js";
import type { Rule, RuleNode, Rules } from "./rule.js";
import { attentionRules } from "./rules/attention.js";
import { convRules } from "./rules/conv.js";
import { elementwiseRules } from "./rules/elementwise.js";
import { indexingRules } from "./rules/indexing.js";
import { matmulRules } from "./rules/matmul.js";
import { movementRules, sumOfGradients, sumTo } from "./rules/movement.js";
import { normRules } from "./rules/norm.js";
import { poolRules } from "./rules/pool.js";
import { reduceRules } from "./rules/reduce.js";
import { selectRules } from "./rules/select.js";

/** The gradient rule of every op. The type requires an entry for each, so an op without a rule does not compile. */
const RULES: Rules<typeof OPS> = {
  input: "nondifferentiable",
  parameter: "nondifferentiable",
  constant: "nondifferentiable",
  ...elementwiseRules,
  ...reduceRules,
  ...movementRules,
  ...indexingRules,
  ...matmulRules,
  ...convRules,
  ...normRules,
  ...poolRules,
  ...selectRules,
  ...attentionRules,
};

/**
 * The nodes between `wrt` and the outputs that no gradient passes through. Error messages name them when a gradient is
 * missing.
 */
export function undifferentiable(outputs: readonly Value[], wrt: readonly Value[]): Node[] {
  const active = new Set(wrt.map(({ node }) => node));
  const stops = new Set<Node>();
  for (const node of topologicalOrder(outputs)) {
    const activeInputs = node.inputs.filter((value) => active.has(value.node));
    if (activeInputs.length === 0) continue;
    active.add(node);
    if (RULES[node.op.name as OpName] === "nondifferentiable") stops.add(node);
    // Integers and booleans have no gradient, whichever op computed them.
    for (const input of activeInputs) if (!isFloating(input.dtype)) stops.add(input.node);
  }
  for (const { dtype, node } of outputs) if (active.has(node) && !isFloating(dtype)) stops.add(node);
  return [...stops];
}

/** A value and its upstream gradient. */
export interface Cotangent {
  readonly value: Value;
  /** The gradient of a scalar with respect to `value`, in the shape of `value`. */
  readonly gradient: Value;
}

/**
 * Reverse-mode differentiation: builds the graph of the gradients of Σ ⟨value, gradient⟩ over all outputs with respect
 * to each of `wrt`. It follows only paths that start at `wrt`, so frozen weights cost nothing. The result is undefined
 * for a value that no differentiable path connects to an output.
 *
 * @throws TypeError if a gradient does not have the shape of its value, or if a path leads through an op without a
 *   rule or through the second output of an op.
 */
export function gradients(outputs: readonly Cotangent[], wrt: readonly Value[]): (Value | undefined)[] {
  const order = topologicalOrder(outputs.map(({ value }) => value));
  const wanted = new Set(wrt);
  const active = new Set<Node>();
  const isActive = (value: Value) => wanted.has(value) || active.has(value.node);
  for (const node of order) if (node.inputs.some(isActive)) active.add(node);

  const total = new Map<Value, Value>();
  const accumulate = (value: Value, gradient: Value) => {
    const unbroadcast = sameShape(gradient.shape, value.shape) ? gradient : sumTo(gradient, value.shape);
    const before = total.get(value);
    total.set(value, before ? sumOfGradients(before, unbroadcast) : unbroadcast);
  };
  for (const { value, gradient } of outputs) {
    if (!sameShape(value.shape, gradient.shape)) {
      throw new TypeError(
        `gradients: the upstream gradient has shape ${showShape(gradient.shape)}, but its value has ${showShape(value.shape)}`,
      );
    }
    if (isActive(value)) accumulate(value, gradient);
  }
  for (const node of order.reverse()) {
    if (!active.has(node)) continue;
    const [y, ...others] = node.outputs as [Value, ...Value[]];
    const second = others.find((value) => total.has(value));
    if (second)
      throw new TypeError(`gradients: ${node.op.name} is not differentiable through its output ${second.index}`);
    const dy = total.get(y);
    if (!dy) continue;
    const rule = RULES[node.op.name as OpName] as Rule<unknown> | "nondifferentiable" | undefined;
    if (!rule) throw new TypeError(`gradients: ${node.op.name} has no gradient rule`);
    if (rule === "nondifferentiable") continue;
    const { inputs, outputs, attrs } = node;
    const thunks = rule(dy, { inputs, y, outputs, attrs } as unknown as RuleNode<unknown>);
    for (const [i, input] of inputs.entries()) {
      const gradient = thunks[i];
      if (gradient && isActive(input)) accumulate(input, gradient());
    }
  }
  return wrt.map((value) => total.get(value));
}
