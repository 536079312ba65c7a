import type { Value } from "../../graph/value.js";
import { cast, div, equal, mul } from "../../ops/elementwise.js";
import { broadcastTo, reshape } from "../../ops/movement.js";
import { sum } from "../../ops/reduce.js";
import type { OPS } from "../../ops/table.js";
import { sizeOf } from "../../tensor/shape.js";
import type { Rules } from "../rule.js";

/** Restores the reduced axes of a value, with extent 1. */
function unreduce(value: Value, x: Value, axes: readonly number[]): Value {
  return reshape(
    value,
    x.shape.map((extent, axis) => (axes.includes(axis) ? 1 : extent)),
  );
}

export const reduceRules: Rules<Pick<typeof OPS, "sum" | "mean" | "max">> = {
  sum: (dy, { inputs: [x], attrs: { axes } }) => [() => broadcastTo(unreduce(dy, x, axes), x.shape)],
  mean: (dy, { inputs: [x], y, attrs: { axes } }) => [
    () => broadcastTo(mul(unreduce(dy, x, axes), sizeOf(y.shape) / sizeOf(x.shape)), x.shape),
  ],
  // Equal maxima share the gradient, as torch.amax does.
  max: (dy, { inputs: [x], y, attrs: { axes } }) => [
    () => {
      const hit = cast(equal(x, unreduce(y, x, axes)), x.dtype);
      return mul(div(hit, sum(hit, axes, { keepDims: true })), unreduce(dy, x, axes));
    },
  ],
};
