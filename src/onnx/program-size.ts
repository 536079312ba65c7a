/** The memory that a program takes, counted from its graph. */
import { fixedNodes, isStored } from "../graph/fixed.js";
import { type Graph, topologicalOrder } from "../graph/graph.js";
import { remembered } from "../graph/remembered.js";
import { bytesOf, type Node, type Value } from "../graph/value.js";
import type { OpName } from "../ops/table.js";
import { lower, type WeightHolding } from "./lower.js";
import { workingBytes } from "./working-bytes.js";

export interface ProgramSize {
  /** Bytes of each parameter as it is stored, by name. Mapped programs share them. */
  readonly parameters: ReadonlyMap<string, number>;
  /** Bytes of the kernels' own copies of weights. 0 if they are mapped. */
  readonly packed: number;
  /** Bytes that compiling takes beside the copies: weights that are computed from others, before kernels copy them. */
  readonly folded: number;
  /** Peak bytes of the values of a run, with a copy of the outputs, which the runtime makes at the end. */
  readonly working: number;
}

/** Bytes that a program of this graph takes on the CPU. */
export function programSize(graph: Graph, holding: WeightHolding): ProgramSize {
  return counted[holding](graph);
}

/** A plan asks for the same graphs several times. */
const counted = {
  packed: remembered((graph: Graph) => count(graph, "packed")),
  mapped: remembered((graph: Graph) => count(graph, "mapped")),
};

function count(graph: Graph, holding: WeightHolding): ProgramSize {
  const lowered = lower(graph, holding);
  const order = topologicalOrder(Object.values(lowered.outputs));
  const parameters = new Map<string, number>();
  for (const { op, attrs, outputs } of order) {
    if (op.name === "parameter") parameters.set((attrs as { name: string }).name, bytesOf(outputs[0] as Value));
  }
  const outputs = total(Object.values(graph.outputs));
  if (holding === "mapped") return { parameters, packed: 0, folded: 0, working: workingBytes(lowered) + outputs };
  const fixed = fixedNodes(order);
  const shared = new Set<Value>();
  const folded = new Set<Value>();
  let packed = 0;
  for (const node of order) {
    if (fixed.has(node)) continue;
    for (const value of node.inputs) {
      if (!fixed.has(value.node) || value.node.op.name === "constant") continue;
      if (!isStored(value)) folded.add(value);
      if (packs(node)) packed += bytesOf(value);
      else shared.add(value);
    }
  }
  return {
    parameters,
    packed: packed + total(shared),
    folded: total(folded),
    working: workingBytes(lowered, fixed) + outputs,
  };
}

/** True for ops whose kernels copy a weight for themselves, even if other nodes read the same weight. */
function packs({ op }: Node): boolean {
  return (["conv2d", "convTranspose2d", "matmul", "gemm"] as OpName[]).includes(op.name as OpName);
}

function total(values: Iterable<Value>): number {
  let bytes = 0;
  for (const value of values) bytes += bytesOf(value);
  return bytes;
}
