/** Rewrites a graph into the form that the runtime computes fastest, before it is written as ONNX. */
import { fixedNodes, isStored } from "../graph/fixed.js";
import { type Graph, topologicalOrder } from "../graph/graph.js";
import { remembered } from "../graph/remembered.js";
import { type Remake, rewrite, same } from "../graph/rewrite.js";
import { apply, type Node, type Value } from "../graph/value.js";
import { type ConvTransposeAttrs, conv2d, convTranspose2dOp, reach } from "../ops/conv.js";
import { flip, reshape, reshapeOp, transpose } from "../ops/movement.js";
import { sameShape } from "../tensor/shape.js";

/**
 * How a program holds its weights.
 *
 * - `packed`: each kernel holds a copy in the order that it computes fastest with. What depends on weights alone is computed
 *   once, when the program is compiled.
 * - `mapped`: kernels read the weights where the file is mapped, and share the mapping with other programs. The system may
 *   drop its pages when memory is short. What depends on weights alone is computed at each use, and freed.
 */
export type WeightHolding = "packed" | "mapped";

export function lower(graph: Graph, holding: WeightHolding): Graph {
  return lowered[holding](graph);
}

/** A plan and the runtime ask for the same graphs. */
const lowered = {
  packed: remembered((graph: Graph) => lowerAnew(graph, "packed")),
  mapped: remembered((graph: Graph) => lowerAnew(graph, "mapped")),
};

function lowerAnew(graph: Graph, holding: WeightHolding): Graph {
  const fixed = fixedNodes(topologicalOrder(Object.values(graph.outputs)));
  const remake: Remake = (node, inputs) => {
    if (node.op === reshapeOp) return mergeReshapes(node, inputs);
    if (node.op !== convTranspose2dOp) return same(node, inputs);
    const folds = holding === "packed" && fixed.has((node.inputs[1] as Value).node);
    return asConv2d(node as Node<ConvTransposeAttrs>, inputs, folds) ?? same(node, inputs);
  };
  const outputs = rewrite(graph.outputs, { remake });
  return { ...graph, outputs: holding === "mapped" ? withOwnWeights(outputs) : outputs };
}

/**
 * Merges a reshape of a reshape into one, or into none if the shape ends up unchanged. Adjacent layers that each flatten
 * their input produce such pairs, and every node takes time.
 */
function mergeReshapes(node: Node, inputs: readonly Value[]): readonly Value[] {
  const [x] = inputs as [Value];
  const [y] = node.outputs as [Value];
  if (x.node.op !== reshapeOp) return same(node, inputs);
  const [original] = x.node.inputs as [Value];
  return sameShape(original.shape, y.shape) ? [original] : apply(reshapeOp, [original], { shape: y.shape });
}

/**
 * Pixels of the batch for each output channel of conv2d, above which turning the weight at each call takes less time than
 * ONNX Runtime's ConvTranspose loses (measured with 3x3 kernels of 128 to 1280 channels, 4x4 to 256x256 pixels).
 */
const PIXELS_PER_CHANNEL = 4;

/**
 * A transposed convolution as a convolution with the flipped weight, with its channel axes swapped. ONNX Runtime's Conv is
 * 1.2 to 1.8 times as fast as its ConvTranspose, but the weight must be turned first. Undefined where that does not pay, or
 * where no convolution does the same.
 */
function asConv2d(
  { attrs }: Node<ConvTransposeAttrs>,
  inputs: readonly Value[],
  folds: boolean,
): readonly Value[] | undefined {
  const [x, weight] = inputs as [Value, Value];
  const { stride, padding, groups, dilation, size } = attrs;
  const [o, perGroup, kh, kw] = weight.shape as [number, number, number, number];
  const [rows, columns] = [reach(kh, dilation), reach(kw, dilation)];
  // Padding as wide as the dilated kernel would make the padding below negative.
  const paddingFits = Math.max(padding[0], padding[2]) < rows && Math.max(padding[1], padding[3]) < columns;
  if (stride !== 1 || !paddingFits) return undefined;
  const pixels = (x.shape[0] as number) * size[0] * size[1];
  if (!folds && pixels <= PIXELS_PER_CHANNEL * o) return undefined;
  const grouped = transpose(reshape(weight, [groups, o / groups, perGroup, kh, kw]), [0, 2, 1, 3, 4]);
  const flipped = kh === 1 && kw === 1 ? grouped : flip(grouped, [3, 4]);
  const turned = reshape(flipped, [groups * perGroup, o / groups, kh, kw]);
  return [
    conv2d(x, turned, undefined, {
      groups,
      dilation,
      padding: [rows - 1 - padding[0], columns - 1 - padding[1], rows - 1 - padding[2], columns - 1 - padding[3]],
    }),
  ];
}

/**
 * Gives each node its own copy of the nodes that compute its weights: casts of float16 weights, for example. A weight that a
 * forward pass and its gradient share would stay in memory between the two.
 */
function withOwnWeights(outputs: Readonly<Record<string, Value>>): Record<string, Value> {
  const fixed = fixedNodes(topologicalOrder(Object.values(outputs)));
  const copy = (value: Value): Value => {
    if (isStored(value)) return value;
    const { op, inputs, attrs } = value.node;
    return apply(op, inputs.map(copy), attrs)[value.index] as Value;
  };
  const remake: Remake = (node, inputs) =>
    fixed.has(node)
      ? node.outputs
      : same(
          node,
          inputs.map((value) => (fixed.has(value.node) ? copy(value) : value)),
        );
  return rewrite(outputs, { remake });
}
