/**
 * Splits a joint graph, which computes values and their gradients, in two: a forward graph that also outputs residuals,
 * and a backward graph that reads the residuals and repeats only cheap operations.
 *
 * The saved residuals are a minimum cut, as in He & Yu 2023 ("Transcending Runtime-Memory Tradeoffs in Checkpointing by
 * being Fusion Aware", MLSys): of all sets of values from which cheap operations alone can compute the gradients, the
 * one with the fewest bytes.
 */
import { type Graph, topologicalOrder } from "../graph/graph.js";
import { FlowNetwork } from "../graph/min-cut.js";
import { rewrite } from "../graph/rewrite.js";
import { bytesOf, type Node, type Value } from "../graph/value.js";
import { input } from "../ops/index.js";
import type { MatmulAttrs } from "../ops/matmul.js";
import type { OpName } from "../ops/table.js";
import { sizeOf } from "../tensor/shape.js";

export interface Split {
  /** Outputs the forward outputs of the joint graph, and the residuals. */
  readonly forward: Graph;
  /** Reads all inputs of the joint graph and the residuals, and outputs the gradients. */
  readonly backward: Graph;
  /** The names of the residuals, which are outputs of `forward` and inputs of `backward`. */
  readonly residuals: readonly string[];
  readonly residualBytes: number;
}

/**
 * An element of a product takes as many multiplications as the inner extent. Up to this extent, computing it again
 * takes about as long as saving it, which means to write it, copy it out of the runtime and read it again.
 */
const CHEAP_INNER_EXTENT = 128;

/**
 * Whether the backward graph must not repeat a node. All other ops are about as fast as reading their result from
 * memory.
 */
function isExpensive({ op, inputs, attrs }: Node): boolean {
  const [a, weight] = inputs;
  switch (op.name as OpName) {
    case "matmul":
    case "gemm":
      return ((a as Value).shape.at((attrs as MatmulAttrs).transposeA ? -2 : -1) as number) > CHEAP_INNER_EXTENT;
    case "conv2d":
    case "convTranspose2d":
      return sizeOf((weight as Value).shape.slice(1)) > CHEAP_INNER_EXTENT;
    case "attention":
      return true;
    default:
      return false;
  }
}

/** Ops that compute nothing. Their values are available in both graphs. */
const SOURCES: ReadonlySet<string> = new Set<OpName>(["input", "parameter", "constant"]);

/** `forwardOutputs` names the outputs of `joint` that the forward graph computes. All other outputs are gradients. */
export function splitAtResiduals(joint: Graph, forwardOutputs: readonly string[]): Split {
  const isForward = (name: string) => forwardOutputs.includes(name);
  const outputs = pick(joint.outputs, isForward);
  const gradients = pick(joint.outputs, (name) => !isForward(name));
  const forwardNodes = new Set(topologicalOrder(Object.values(outputs)));
  const inputs = pick(joint.inputs, (name) => forwardNodes.has((joint.inputs[name] as Value).node));

  const forwardInputs = new Set(Object.values(inputs).map(({ node }) => node));
  const residuals = residualsOf(Object.values(gradients), forwardInputs);
  const named = Object.fromEntries(residuals.map((value, i) => [`residual${i}`, value]));

  const placeholders = new Map(residuals.map((value) => [value, input(value.shape, value.dtype)]));
  const residualInputs = Object.fromEntries(
    Object.entries(named).map(([name, value]) => [name, placeholders.get(value) as Value]),
  );
  return {
    forward: { name: `${joint.name} forward with residuals`, inputs, outputs: { ...outputs, ...named } },
    backward: {
      name: `${joint.name} backward from residuals`,
      inputs: { ...joint.inputs, ...residualInputs },
      outputs: rewrite(gradients, { replacements: placeholders }),
    },
    residuals: Object.keys(named),
    residualBytes: residuals.reduce((total, value) => total + bytesOf(value), 0),
  };
}

/**
 * The values of fewest bytes that separate the gradients from all expensive nodes. In the flow network, each value is
 * an edge from its `computed` vertex to its `read` vertex, with its bytes as the capacity. A cut edge is a saved
 * residual.
 */
function residualsOf(gradients: readonly Value[], forwardInputs: ReadonlySet<Node>): Value[] {
  const order = topologicalOrder(gradients);
  // Nodes that depend on an input that the forward graph does not have, such as the upstream gradient.
  const backward = new Set<Node>();
  // Nodes that depend only on weights and constants. The runtime computes them once, when it loads the graph.
  const constants = new Set<Node>();
  for (const node of order) {
    const isInput = node.op.name === "input";
    if (isInput ? !forwardInputs.has(node) : node.inputs.some((value) => backward.has(value.node))) backward.add(node);
    else if (!isInput && node.inputs.every((value) => constants.has(value.node))) constants.add(node);
  }

  const net = new FlowNetwork();
  const [source, sink] = [net.vertex(), net.vertex()];
  const vertices = new Map<Value, { computed: number; read: number }>();
  const connect = (values: Iterable<Value>, reader: number) => {
    for (const value of values) {
      const vertex = vertices.get(value);
      if (vertex) net.edge(vertex.read, reader, Number.POSITIVE_INFINITY);
    }
  };
  for (const node of order) {
    if (backward.has(node)) {
      connect(node.inputs, sink);
      continue;
    }
    if (constants.has(node) || SOURCES.has(node.op.name)) continue;
    for (const value of node.outputs) {
      const vertex = { computed: net.vertex(), read: net.vertex() };
      vertices.set(value, vertex);
      // A reshape is a view, and the runtime copies a view that it outputs. Prefer to save the value behind it.
      net.edge(vertex.computed, vertex.read, bytesOf(value) + (node.op.name === "reshape" ? 1 : 0));
      if (isExpensive(node)) net.edge(source, vertex.computed, Number.POSITIVE_INFINITY);
      else connect(node.inputs, vertex.computed);
    }
  }
  connect(gradients, sink);

  const sinkSide = net.sinkSide(source, sink);
  return [...vertices].flatMap(([value, { computed, read }]) =>
    sinkSide.has(read) && !sinkSide.has(computed) ? [value] : [],
  );
}

function pick(values: Readonly<Record<string, Value>>, wanted: (name: string) => boolean) {
  return Object.fromEntries(Object.entries(values).filter(([name]) => wanted(name)));
}
