import { reshape } from "../../ops/movement.js";
import { gatherElements, scatterElements } from "../../ops/select.js";
import type { OPS } from "../../ops/table.js";
import { sizeOf } from "../../tensor/shape.js";
import type { Rules } from "../rule.js";

type Select = Pick<typeof OPS, "gatherElements" | "scatterElements" | "topK" | "maxPool">;

/** Each element's gradient goes to the place that it was read from; indices have none. */
export const selectRules: Rules<Select> = {
  gatherElements: (dy, { inputs: [x, indices], attrs: { axis } }) => [
    () => scatterElements(indices, dy, x.shape, axis),
    undefined,
  ],
  scatterElements: (dy, { inputs: [indices], attrs: { axis } }) => [undefined, () => gatherElements(dy, indices, axis)],
  topK: (dy, { inputs: [x], outputs, attrs: { axis } }) => [
    () => scatterElements(outputs[1] as (typeof outputs)[0], dy, x.shape, axis),
  ],
  maxPool: (dy, { inputs: [x], outputs }) => [
    () => {
      const places = reshape(outputs[1] as (typeof outputs)[0], [-1]);
      return reshape(scatterElements(places, reshape(dy, [-1]), [sizeOf(x.shape)], 0), x.shape);
    },
  ],
};
