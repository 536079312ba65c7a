import { sameShape, showShape, sizeOf } from "../tensor/shape.js";
import { remembered } from "./remembered.js";
import { type Node, showType, type Value } from "./value.js";

/** A program with named inputs and outputs. It consists of all nodes that the outputs depend on. */
export interface Graph {
  readonly name: string;
  readonly inputs: Readonly<Record<string, Value>>;
  readonly outputs: Readonly<Record<string, Value>>;
}

/** All nodes that the values depend on, each after the nodes that produce its inputs. */
export function topologicalOrder(values: Iterable<Value>): Node[] {
  const order: Node[] = [];
  const seen = new Set<Node>();
  for (const root of values) {
    // Depth-first with an explicit stack, because chains of thousands of nodes would overflow the call stack.
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

/** Number of elements of all parameters of a graph. Plans ask for the same graphs many times. */
export const parameterElements: (graph: Graph) => number = remembered((graph) => {
  let elements = 0;
  const names = new Set<string>();
  for (const { op, attrs, outputs } of topologicalOrder(Object.values(graph.outputs))) {
    if (op.name !== "parameter") continue;
    const { name } = attrs as { name: string };
    if (!names.has(name)) elements += sizeOf((outputs[0] as Value).shape);
    names.add(name);
  }
  return elements;
});

/**
 * Checks a whole graph: every input that is read is declared, no name is both an input and an output, a parameter is
 * read with one type only, and every node has the output types that its op infers.
 *
 * @throws TypeError with the first problem.
 */
export function verify(graph: Graph): void {
  const declared = new Set<Node>();
  for (const [name, value] of Object.entries(graph.inputs)) {
    if (value.node.op.name !== "input")
      throw new TypeError(`graph ${graph.name}: input ${name} is the output of ${value.node.op.name}`);
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
          `graph ${graph.name}: ${node.op.name} output ${i} is ${value ? showType(value) : "missing"}, but the op infers ${showType(type)}`,
        );
      }
    }
  }
}

/** A readable listing with one line per node. */
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
