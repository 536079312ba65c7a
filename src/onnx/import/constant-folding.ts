/** Computes the parts of a graph that depend on constants alone. */
import { topologicalOrder } from "../../graph/graph.js";
import { interpret } from "../../graph/interpret.js";
import type { Node, Value } from "../../graph/value.js";
import { constant } from "../../ops/index.js";
import { type DType, isFloating } from "../../tensor/dtype.js";
import { sizeOf } from "../../tensor/shape.js";
import { numbersOf } from "./node.js";

/** Limits on constant folding, in multiplications and elements. A constant that takes more is left to the runtime. */
const MAX_FOLD_COST = 2 ** 22;
const MAX_TOTAL_FOLD_COST = 2 ** 27;

/** Integers that a type holds. Beyond them ONNX wraps around, which no model means to. */
const RANGES: Readonly<Partial<Record<DType, readonly [number, number]>>> = {
  uint8: [0, 255],
  int8: [-128, 127],
  int32: [-(2 ** 31), 2 ** 31 - 1],
};

/** Folds the constants of one import, within the limits. */
export class ConstantFolder {
  private spent = 0;

  /** Replaces values by constants if they depend on no input and no weight, and if computing them is cheap. */
  fold(values: readonly Value[]): readonly Value[] {
    const order = topologicalOrder(values);
    const cost = order.reduce((total, node) => total + costOf(node), 0);
    const isOpen = order.some(({ op }) => op.name === "parameter" || op.name === "input");
    if (isOpen || cost > MAX_FOLD_COST || this.spent + cost > MAX_TOTAL_FOLD_COST) return values;
    this.spent += cost;
    const outputs = Object.fromEntries(values.map((value, i) => [i, value]));
    const results = interpret({ name: "constants", inputs: {}, outputs }, {});
    return values.map((value, i) => {
      if (numbersOf(value)) return value;
      const data = results[i]?.data ?? new Float64Array();
      const [low, high] = RANGES[value.dtype] ?? [Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER];
      if (!isFloating(value.dtype) && !data.every((x) => Number.isInteger(x) && x >= low && x <= high)) {
        throw new RangeError("its result has integers that are out of range");
      }
      return constant(data, value.shape, value.dtype);
    });
  }
}

/** Rough number of operations that computing a node takes. */
function costOf({ op, inputs, outputs }: Node): number {
  const elements = outputs.reduce((total, { shape }) => total + sizeOf(shape), 0);
  const [a, b] = inputs;
  switch (op.name) {
    case "constant":
      return 0;
    case "matmul":
    case "gemm":
      return elements * Math.max(...(a as Value).shape.slice(-2));
    case "conv2d":
    case "convTranspose2d":
      return elements * sizeOf((b as Value).shape.slice(1));
    case "maxPool":
      return elements * sizeOf((a as Value).shape.slice(2));
    default:
      return elements + inputs.reduce((total, { shape }) => total + sizeOf(shape), 0);
  }
}
