import { mul } from "../../ops/elementwise.js";
import { scatterElements } from "../../ops/indexing.js";
import { reshape } from "../../ops/movement.js";
import { averagePool, upsampleNearest } from "../../ops/pool.js";
import type { OPS } from "../../ops/table.js";
import { sizeOf } from "../../tensor/shape.js";
import type { Rules } from "../rule.js";

export const poolRules: Rules<Pick<typeof OPS, "averagePool" | "upsampleNearest" | "maxPool">> = {
  averagePool: (dy, { attrs: { factor } }) => [() => mul(upsampleNearest(dy, factor), 1 / factor ** 2)],
  upsampleNearest: (dy, { attrs: { factor } }) => [() => mul(averagePool(dy, factor), factor ** 2)],
  // The gradient goes to the largest element of each window.
  maxPool: (dy, { inputs: [x], outputs }) => [
    () => {
      const positions = reshape(outputs[1] as (typeof outputs)[0], [-1]);
      return reshape(scatterElements(positions, reshape(dy, [-1]), [sizeOf(x.shape)], 0), x.shape);
    },
  ],
};
