import { type Graph, topologicalOrder } from "../graph/graph.js";
import { bytesOf, type Node, type Value } from "../graph/value.js";

/** Memory that holds one value after another. */
interface Buffer {
  readonly bytes: number;
  /** Index of the first node that writes to it. */
  readonly from: number;
  /** Index of the last node that uses it. */
  until: number;
}

/**
 * The peak number of bytes of a program's values, without weights and inputs, when the nodes run in topological order. Outputs
 * stay to the end. A reshape takes no memory: it is a view of its input.
 *
 * ONNX Runtime plans buffers before it runs: a value takes the buffer of an earlier value of the same type that is not needed any
 * more, if there is one, and a buffer is freed after the last of its values. So a buffer of the first layers of a U-Net waits
 * for the last ones, which have the same shapes.
 *
 * @param folded nodes that do not run, because their results were computed before
 */
export function workingBytes(graph: Graph, folded: ReadonlySet<Node> = new Set()): number {
  const order = topologicalOrder(Object.values(graph.outputs)).filter(
    (node) => node.inputs.length > 0 && !folded.has(node),
  );
  const buffers = planBuffers(order, Object.values(graph.outputs));
  const change = new Float64Array(order.length + 2);
  for (const { bytes, from, until } of buffers) {
    change[from] = (change[from] as number) + bytes;
    change[until + 1] = (change[until + 1] as number) - bytes;
  }
  let [alive, peak] = [0, 0];
  for (const bytes of change) {
    alive += bytes;
    peak = Math.max(peak, alive);
  }
  return peak;
}

function planBuffers(order: readonly Node[], outputs: readonly Value[]): Buffer[] {
  const runs = new Set(order);
  const views = new Map<Value, Value>();
  const storage = (value: Value) => views.get(value) ?? value;
  const lastUse = new Map<Value, number>();
  for (const [i, { op, inputs, outputs }] of order.entries()) {
    if (op.name === "reshape") views.set(outputs[0] as Value, storage(inputs[0] as Value));
    for (const value of [...inputs, ...outputs]) lastUse.set(storage(value), i);
  }
  for (const value of outputs) lastUse.set(storage(value), order.length);
  const ending = order.map((): Value[] => []);
  for (const [value, i] of lastUse) if (runs.has(value.node)) ending[i]?.push(value);

  const buffers: Buffer[] = [];
  const assigned = new Map<Value, Buffer>();
  const free = new Map<string, Buffer[]>();
  for (const [i, { outputs }] of order.entries()) {
    for (const value of outputs) {
      if (views.has(value)) continue;
      const buffer = free.get(keyOf(value))?.pop() ?? { bytes: bytesOf(value), from: i, until: i };
      if (buffer.from === i) buffers.push(buffer);
      buffer.until = lastUse.get(value) as number;
      assigned.set(value, buffer);
    }
    for (const value of ending[i] as Value[]) {
      const list = free.get(keyOf(value)) ?? [];
      free.set(keyOf(value), list);
      list.push(assigned.get(value) as Buffer);
    }
  }
  return buffers;
}

/** Values of the same key can share a buffer. */
const keyOf = ({ dtype, shape }: Value) => `${dtype} ${shape}`;
