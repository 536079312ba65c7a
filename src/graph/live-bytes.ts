import { type Graph, topologicalOrder } from "./graph.js";
import { bytesOf, type Value } from "./value.js";

/**
 * The most bytes that are alive at one time when the nodes run in order, weights aside. Outputs stay to the end, and a reshape is
 * the value that it views.
 */
export function liveBytes(graph: Graph): number {
  const order = topologicalOrder(Object.values(graph.outputs)).filter(({ inputs }) => inputs.length > 0);
  const views = new Map<Value, Value>();
  const held = (value: Value) => views.get(value) ?? value;
  const lastUse = new Map<Value, number>();
  for (const [i, { op, inputs, outputs }] of order.entries()) {
    if (op.name === "reshape") views.set(outputs[0] as Value, held(inputs[0] as Value));
    for (const value of [...inputs, ...outputs]) lastUse.set(held(value), i);
  }
  for (const value of Object.values(graph.outputs)) lastUse.set(held(value), order.length);
  const ending = order.map((): Value[] => []);
  for (const [value, i] of lastUse) if (value.node.inputs.length > 0) ending[i]?.push(value);
  let alive = 0;
  let most = 0;
  for (const [i, { outputs }] of order.entries()) {
    for (const value of outputs) if (!views.has(value)) alive += bytesOf(value);
    most = Math.max(most, alive);
    for (const value of ending[i] as Value[]) alive -= bytesOf(value);
  }
  return most;
}
