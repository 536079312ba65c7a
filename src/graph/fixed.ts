import type { Node, Value } from "./value.js";

/**
 * The nodes of a topological order whose results depend on parameters and constants alone. Their results are the same in every
 * run. Parameters and constants themselves are included.
 */
export function fixedNodes(order: readonly Node[]): ReadonlySet<Node> {
  const fixed = new Set<Node>();
  for (const node of order) {
    if (node.op.name !== "input" && node.inputs.every((value) => fixed.has(value.node))) fixed.add(node);
  }
  return fixed;
}

/** True if the value is stored, as a weight in a file or as a constant, so that no node computes it. */
export function isStored({ node }: Value): boolean {
  return node.op.name === "parameter" || node.op.name === "constant";
}
