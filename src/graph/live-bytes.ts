import { type Graph, topologicalOrder } from "./graph.js";
import { bytesOf, type Value } from "./value.js";

/**
 * The peak number of bytes of live values when the nodes run in topological order, without weights and inputs. Outputs
 * stay alive to the end. A reshape takes no memory: it is a view of its input.
 */
export function liveBytes(graph: Graph): number {
  const known = counted.get(graph) ?? countLiveBytes(graph);
  counted.set(graph, known);
  return known;
}

/** A plan asks for the same graphs several times. */
const counted = new WeakMap<Graph, number>();

function countLiveBytes(graph: Graph): number {
  const order = topologicalOrder(Object.values(graph.outputs)).filter(({ inputs }) => inputs.length > 0);
  const views = new Map<Value, Value>();
  const storage = (value: Value) => views.get(value) ?? value;
  const lastUse = new Map<Value, number>();
  for (const [i, { op, inputs, outputs }] of order.entries()) {
    if (op.name === "reshape") views.set(outputs[0] as Value, storage(inputs[0] as Value));
    for (const value of [...inputs, ...outputs]) lastUse.set(storage(value), i);
  }
  for (const value of Object.values(graph.outputs)) lastUse.set(storage(value), order.length);
  const ending = order.map((): Value[] => []);
  for (const [value, i] of lastUse) if (value.node.inputs.length > 0) ending[i]?.push(value);
  let alive = 0;
  let peak = 0;
  for (const [i, { outputs }] of order.entries()) {
    for (const value of outputs) if (!views.has(value)) alive += bytesOf(value);
    peak = Math.max(peak, alive);
    for (const value of ending[i] as Value[]) alive -= bytesOf(value);
  }
  return peak;
}
