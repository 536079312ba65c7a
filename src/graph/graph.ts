import { sameShape, showShape } from "../tensor/shape.js";
import { type Node, showType, type Value } from "./value.js";

/** A program: named inputs and outputs. Its nodes are those that the outputs reach. */
export interface Graph {
  readonly name: string;
  readonly inputs: Readonly<Record<string, Value>>;
  readonly outputs: Readonly<Record<string, Value>>;
}

/** Nodes that the values reach, each after the nodes it reads. */
export function topologicalOrder(values: Iterable<Value>): Node[] {
  const order: Node[] = [];
  const seen = new Set<Node>();
  for (const root of values) {
    // Depth first without recursion: chains of thousands of nodes are normal.
    const stack: { node: Node; next: number }[] = [{ node: root.node, next: 0 }];
    while (stack.length > 0) {
      const top = stack[stack.length - 1] as { node: Node; next: number };
      if (top.next === 0) {
        if (seen.has(top.node)) {
          stack.pop();
          continue;
        }
        seen.add(top.node);
      }
      const child = top.node.inputs[top.next++];
      if (child === undefined) {
        order.push(top.node);
        stack.pop();
      } else if (!seen.has(child.node)) {
        stack.push({ node: child.node, next: 0 });
      }
    }
  }
  return order;
}

/**
 * Checks what construction cannot: that every input the outputs reach is declared, under a name that is no output's, and
 * that each node's types still are what its shape rule says. Throws with the first fault.
 */
export function verify(graph: Graph): void {
  const declared = new Set<Node>();
  for (const [name, value] of Object.entries(graph.inputs)) {
    if (value.node.op.name !== "input")
      throw new TypeError(`graph ${graph.name}: input ${name} is computed by ${value.node.op.name}`);
    if (Object.hasOwn(graph.outputs, name))
      throw new TypeError(`graph ${graph.name}: ${name} names both an input and an output`);
    declared.add(value.node);
  }
  const parameters = new Map<string, Value>();
  for (const node of topologicalOrder(Object.values(graph.outputs))) {
    const output = node.outputs[0] as Value;
    if (node.op.name === "input" && !declared.has(node)) {
      throw new TypeError(`graph ${graph.name}: an input ${showType(output)} is read but not declared`);
    }
    if (node.op.name === "parameter") {
      const name = (node.attrs as { name: string }).name;
      const other = parameters.get(name);
      if (other && (other.dtype !== output.dtype || !sameShape(other.shape, output.shape))) {
        throw new TypeError(
          `graph ${graph.name}: parameter ${name} is read as ${showType(other)} and as ${showType(output)}`,
        );
      }
      parameters.set(name, output);
    }
    const types = node.op.infer(node.inputs, node.attrs);
    for (const [i, type] of types.entries()) {
      const value = node.outputs[i];
      if (!value || value.dtype !== type.dtype || !sameShape(value.shape, type.shape)) {
        throw new TypeError(
          `graph ${graph.name}: ${node.op.name} output ${i} is ${value ? showType(value) : "missing"}, its rule says ${showType(type)}`,
        );
      }
    }
  }
}

/** A readable listing, a line a node. */
export function print(graph: Graph): string {
  const names = new Map<Value, string>();
  for (const [name, value] of Object.entries(graph.inputs)) names.set(value, name);
  const lines: string[] = [];
  for (const node of topologicalOrder(Object.values(graph.outputs))) {
    for (const value of node.outputs) if (!names.has(value)) names.set(value, `%${names.size}`);
    if (node.op.name === "input") continue;
    const left = node.outputs.map((v) => `${names.get(v)}: ${v.dtype}${showShape(v.shape)}`).join(", ");
    const attrs = JSON.stringify(node.attrs, (_, v) => (ArrayBuffer.isView(v) ? "…" : v));
    lines.push(`${left} = ${node.op.name}(${node.inputs.map((v) => names.get(v)).join(", ")}) ${attrs}`);
  }
  for (const [name, value] of Object.entries(graph.outputs)) lines.push(`${name} ← ${names.get(value)}`);
  return lines.join("\n");
}
