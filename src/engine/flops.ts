import { type Graph, topologicalOrder } from "../graph/graph.js";
import type { Value } from "../graph/value.js";
import type { MatmulAttrs } from "../ops/matmul.js";
import type { OpName } from "../ops/table.js";
import { sizeOf } from "../tensor/shape.js";

/**
 * The floating-point operations of a graph's matrix products and convolutions, with two per multiply-add. The other
 * operations are few in comparison.
 */
export function flops(graph: Graph): number {
  let total = 0;
  for (const { op, inputs, outputs, attrs } of topologicalOrder(Object.values(graph.outputs))) {
    const [a, b] = inputs as [Value, Value];
    const out = sizeOf((outputs[0] as Value).shape);
    switch (op.name as OpName) {
      case "matmul":
      case "gemm": {
        const { transposeA } = attrs as MatmulAttrs;
        total += 2 * out * (a.shape.at(transposeA ? -2 : -1) as number);
        break;
      }
      case "conv2d": // each output element is the dot product with a filter [c / groups, kh, kw]
        total += 2 * out * sizeOf(b.shape.slice(1));
        break;
      case "convTranspose2d": // each input element is multiplied by a filter
        total += 2 * sizeOf(a.shape) * sizeOf(b.shape.slice(1));
        break;
    }
  }
  return total;
}
