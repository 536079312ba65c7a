import { type HostTensor, toNumbers } from "../tensor/host.js";
import { type Graph, topologicalOrder } from "./graph.js";
import type { F64Array, Value } from "./value.js";

/**
 * Evaluates a graph in float64 with simple loops. It is slow; tests use it as the reference for shape inference, ONNX
 * emission and gradients. `feeds` holds the inputs, and `parameters` returns the weights by name.
 */
export function interpret(
  graph: Graph,
  feeds: Readonly<Record<string, F64Array | HostTensor>>,
  parameters: (name: string) => F64Array | HostTensor | undefined = () => undefined,
): Record<string, F64Array> {
  const values = new Map<Value, F64Array>();
  const names = new Map(Object.entries(graph.inputs).map(([name, value]) => [value, name]));
  for (const node of topologicalOrder(Object.values(graph.outputs))) {
    const output = node.outputs[0] as Value;
    const given =
      node.op.name === "input"
        ? feeds[names.get(output) ?? ""]
        : node.op.name === "parameter"
          ? parameters((node.attrs as { name: string }).name)
          : undefined;
    if (given) {
      values.set(output, "dtype" in given ? { shape: given.shape, data: toNumbers(given) } : given);
      continue;
    }
    const results = node.op.evaluate(
      node.inputs.map((value) => values.get(value) as F64Array),
      node,
    );
    for (const [i, result] of results.entries()) values.set(node.outputs[i] as Value, result);
  }
  return Object.fromEntries(
    Object.entries(graph.outputs).map(([name, value]) => [name, values.get(value) as F64Array]),
  );
}
