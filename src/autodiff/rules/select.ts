import { scatterElements } from "../../ops/indexing.js";
import type { OPS } from "../../ops/table.js";
import type { Rules } from "../rule.js";

/** The gradient goes to the elements that were selected. */
export const selectRules: Rules<Pick<typeof OPS, "topK">> = {
  topK: (dy, { inputs: [x], outputs, attrs: { axis } }) => [
    () => scatterElements(outputs[1] as (typeof outputs)[0], dy, x.shape, axis),
  ],
};
