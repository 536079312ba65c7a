import { gather, gatherElements, scatterElements, scatterRows } from "../../ops/indexing.js";
import { reshape } from "../../ops/movement.js";
import type { OPS } from "../../ops/table.js";
import type { Rules } from "../rule.js";

type Indexing = Pick<typeof OPS, "gather" | "scatterRows" | "gatherElements" | "scatterElements">;

/** Each element's gradient goes to the position that it was read from. Indices have no gradient. */
export const indexingRules: Rules<Indexing> = {
  gather: (dy, { inputs: [table, indices] }) => [
    () => scatterRows(reshape(indices, [-1]), reshape(dy, [-1, ...table.shape.slice(1)]), table.shape[0] as number),
    undefined,
  ],
  scatterRows: (dy, { inputs: [indices] }) => [undefined, () => gather(dy, indices)],
  gatherElements: (dy, { inputs: [x, indices], attrs: { axis } }) => [
    () => scatterElements(indices, dy, x.shape, axis),
    undefined,
  ],
  scatterElements: (dy, { inputs: [indices], attrs: { axis } }) => [undefined, () => gatherElements(dy, indices, axis)],
};
