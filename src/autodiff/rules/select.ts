import { scatterElements } from "../../ops/indexing.js";
import { reshape } from "../../ops/movement.js";
import type { OPS } from "../../ops/table.js";
import { sizeOf } from "../../tensor/shape.js";
import type { Rules } from "../rule.js";

/** The gradient goes to the elements that were selected. */
export const selectRules: Rules<Pick<typeof OPS, "topK" | "maxPool">> = {
  topK: (dy, { inputs: [x], outputs, attrs: { axis } }) => [
    () => scatterElements(outputs[1] as (typeof outputs)[0], dy, x.shape, axis),
  ],
  maxPool: (dy, { inputs: [x], outputs }) => [
    () => {
      const positions = reshape(outputs[1] as (typeof outputs)[0], [-1]);
      return reshape(scatterElements(positions, reshape(dy, [-1]), [sizeOf(x.shape)], 0), x.shape);
    },
  ],
};
