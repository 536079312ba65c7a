import { type Graph, topologicalOrder } from "../graph/graph.js";
import type { Node, Value } from "../graph/value.js";
import type { MatmulAttrs } from "../ops/matmul.js";
import type { OpName } from "../ops/table.js";
import { sizeOf } from "../tensor/shape.js";

/**
 * The floating-point operations of a graph's matrix products, convolutions and attention, with two per multiply-add. The other
 * operations are few in comparison.
 */
export function flops(graph: Graph): number {
  return topologicalOrder(Object.values(graph.outputs)).reduce((total, node) => total + flopsOf(node), 0);
}

/** The floating-point operations of one node, by the same rule. */
export function flopsOf({ op, inputs, outputs, attrs }: Node): number {
  const [a, b] = inputs as [Value, Value];
  const out = sizeOf((outputs[0] as Value).shape);
  switch (op.name as OpName) {
    case "matmul":
    case "gemm": {
      const { transposeA } = attrs as MatmulAttrs;
      return 2 * out * (a.shape.at(transposeA ? -2 : -1) as number);
    }
    case "conv2d": // each output element is the dot product with a filter [c / groups, kh, kw]
      return 2 * out * sizeOf(b.shape.slice(1));
    case "convTranspose2d": // each input element is multiplied by a filter
      return 2 * sizeOf(a.shape) * sizeOf(b.shape.slice(1));
    case "attention": // each query with each key, and each weight with each value: [b, n, c] and [b, m, c]
      return 4 * sizeOf(a.shape) * (b.shape[1] as number);
    default:
      return 0;
  }
}
