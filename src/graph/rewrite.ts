import { topologicalOrder } from "./graph.js";
import { apply, type Node, type Value } from "./value.js";

/** Recomputes the outputs of `node` from other inputs. */
export type Remake = (node: Node, inputs: readonly Value[]) => readonly Value[];

/**
 * Rebuilds the graph of some values. Nodes read `replacements` instead of the values that have one, and `remake`
 * decides how each node is rebuilt. Nodes without any change are shared with the old graph.
 */
export function rewrite(
  values: Readonly<Record<string, Value>>,
  { replacements = new Map(), remake = same }: { replacements?: ReadonlyMap<Value, Value>; remake?: Remake },
): Record<string, Value> {
  const replaced = new Map(replacements);
  const current = (value: Value) => replaced.get(value) ?? value;
  for (const node of topologicalOrder(Object.values(values))) {
    const outputs = remake(node, node.inputs.map(current));
    for (const [i, value] of node.outputs.entries()) {
      if (outputs[i] !== value && !replaced.has(value)) replaced.set(value, outputs[i] as Value);
    }
  }
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, current(value)]));
}

/** Applies the node's op to the new inputs; returns the node's own outputs if the inputs have not changed. */
export function same(node: Node, inputs: readonly Value[]): readonly Value[] {
  return inputs.every((value, i) => value === node.inputs[i]) ? node.outputs : apply(node.op, inputs, node.attrs);
}
