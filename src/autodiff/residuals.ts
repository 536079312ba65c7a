/**
 * Splits a graph that computes values and their gradients into two: a forward graph that also gives out the residuals,
 * and a backward graph that starts from them and computes nothing expensive a second time.
 *
 * What to keep is a minimum cut, as in He & Yu 2023 ("Transcending Runtime-Memory Tradeoffs in Checkpointing by being
 * Fusion Aware", MLSys): of all the sets of values that the gradients can be computed from with cheap operations alone,
 * the one of fewest bytes.
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
  /** The joint graph's forward outputs, and the residuals. */
  readonly forward: Graph;
  /** From all inputs of the joint graph and the residuals to the gradients. */
  readonly backward: Graph;
  /** The names under which the one gives residuals and the other takes them. */
  readonly residuals: readonly string[];
  readonly residualBytes: number;
}

/**
 * Computing an element of a product takes as many multiplications as its inner extent. Up to here that takes about as long
 * as keeping the element, which is written, copied out of the runtime and read again.
 */
const CHEAP_INNER_EXTENT = 128;

/** Not worth doing twice. Everything else is about as fast as reading its result from memory. */
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

/** Given, not computed: both graphs have them. */
const SOURCES: ReadonlySet<string> = new Set<OpName>(["input", "parameter", "constant"]);

/** `forwardOutputs` names those outputs of `joint` that the forward graph gives; the rest are gradients. */
export function splitAtResiduals(joint: Graph, forwardOutputs: readonly string[]): Split {
  const isForward = (name: string) => forwardOutputs.includes(name);
  const outputs = pick(joint.outputs, isForward);
  const gradients = pick(joint.outputs, (name) => !isForward(name));
  const reached = new Set(topologicalOrder(Object.values(outputs)));
  const inputs = pick(joint.inputs, (name) => reached.has((joint.inputs[name] as Value).node));

  const given = new Set(Object.values(inputs).map(({ node }) => node));
  const kept = residualsOf(Object.values(gradients), given);
  const named = Object.fromEntries(kept.map((value, i) => [`residual${i}`, value]));

  const placeholders = new Map(kept.map((value) => [value, input(value.shape, value.dtype)]));
  const fed = Object.fromEntries(
    Object.entries(named).map(([name, value]) => [name, placeholders.get(value) as Value]),
  );
  return {
    forward: { name: `${joint.name} forward, keeping residuals`, inputs, outputs: { ...outputs, ...named } },
    backward: {
      name: `${joint.name} backward from residuals`,
      inputs: { ...joint.inputs, ...fed },
      outputs: rewrite(gradients, { replacements: placeholders }),
    },
    residuals: Object.keys(named),
    residualBytes: kept.reduce((total, value) => total + bytesOf(value), 0),
  };
}

/**
 * The fewest bytes that part the gradients from what is expensive to compute. A value is an edge of the network, as wide
 * as its bytes, from where it is computed to where it is read; keeping it cuts that edge.
 */
function residualsOf(gradients: readonly Value[], given: ReadonlySet<Node>): Value[] {
  const order = topologicalOrder(gradients);
  const backward = new Set<Node>(); // what waits for an input that the forward graph does not have, such as the upstream
  const fixed = new Set<Node>(); // what weights and constants alone decide, which the runtime computes once
  for (const node of order) {
    const isInput = node.op.name === "input";
    if (isInput ? !given.has(node) : node.inputs.some((value) => backward.has(value.node))) backward.add(node);
    else if (!isInput && node.inputs.every((value) => fixed.has(value.node))) fixed.add(node);
  }

  const net = new FlowNetwork();
  const [source, sink] = [net.vertex(), net.vertex()];
  const places = new Map<Value, { made: number; read: number }>();
  const readers = (values: Iterable<Value>, reader: number) => {
    for (const value of values) {
      const place = places.get(value);
      if (place) net.edge(place.read, reader, Number.POSITIVE_INFINITY);
    }
  };
  for (const node of order) {
    if (backward.has(node)) {
      readers(node.inputs, sink);
      continue;
    }
    if (fixed.has(node) || SOURCES.has(node.op.name)) continue;
    for (const value of node.outputs) {
      const place = { made: net.vertex(), read: net.vertex() };
      places.set(value, place);
      // To give out a view is to copy it; of equals, what it views is the better choice.
      net.edge(place.made, place.read, bytesOf(value) + (node.op.name === "reshape" ? 1 : 0));
      if (isExpensive(node)) net.edge(source, place.made, Number.POSITIVE_INFINITY);
      else readers(node.inputs, place.made);
    }
  }
  readers(gradients, sink);

  const after = net.sinkSide(source, sink);
  return [...places].flatMap(([value, { made, read }]) => (after.has(read) && !after.has(made) ? [value] : []));
}

function pick(values: Readonly<Record<string, Value>>, wanted: (name: string) => boolean) {
  return Object.fromEntries(Object.entries(values).filter(([name]) => wanted(name)));
}
