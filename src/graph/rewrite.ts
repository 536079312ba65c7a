import { topologicalOrder } from "./graph.js";
import { apply, type Node, type Value } from "./value.js";

/** A node's outputs, computed from other inputs than its own. */
export type Remake = (node: Node, inputs: readonly Value[]) => readonly Value[];

/**
 * The same values computed anew: from `replacements`, where a node reads a value that has one, and with `remake` deciding
 * what stands for each node. Nodes that nothing changes stay as they are.
 */
export function rewrite(
  values: Readonly<Record<string, Value>>,
  { replacements = new Map(), remake = same }: { replacements?: ReadonlyMap<Value, Value>; remake?: Remake },
): Record<string, Value> {
  const replaced = new Map(replacements);
  const now = (value: Value) => replaced.get(value) ?? value;
  for (const node of topologicalOrder(Object.values(values))) {
    const again = remake(node, node.inputs.map(now));
    for (const [i, value] of node.outputs.entries()) {
      if (again[i] !== value && !replaced.has(value)) replaced.set(value, again[i] as Value);
    }
  }
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, now(value)]));
}

/** The node's own op, on the inputs it now has. */
export function same(node: Node, inputs: readonly Value[]): readonly Value[] {
  return inputs.every((value, i) => value === node.inputs[i]) ? node.outputs : apply(node.op, inputs, node.attrs);
}
