import type { Value } from "../../graph/value.js";
import { flip, gather, pad, reshape, scatterRows, slice, transpose } from "../../ops/movement.js";
import { sum } from "../../ops/reduce.js";
import type { OPS } from "../../ops/table.js";
import type { Rules } from "../rule.js";

type Movement = Pick<
  typeof OPS,
  "reshape" | "transpose" | "broadcastTo" | "slice" | "flip" | "pad" | "concat" | "gather" | "scatterRows"
>;

export const movementRules: Rules<Movement> = {
  reshape: (dy, { inputs: [x] }) => [() => reshape(dy, x.shape)],
  transpose: (dy, { attrs: { permutation } }) => [
    () =>
      transpose(
        dy,
        permutation.map((_, axis) => permutation.indexOf(axis)),
      ),
  ],
  broadcastTo: (dy) => [() => dy],
  slice: (dy, { inputs: [x], attrs: { axis, start, step } }) => [
    () => {
      const spread = step === 1 ? dy : dilate(dy, axis, step);
      const after = (x.shape[axis] as number) - start - (spread.shape[axis] as number);
      return pad(
        spread,
        x.shape.map((_, i) => (i === axis ? [start, after] : [0, 0])),
      );
    },
  ],
  flip: (dy, { attrs: { axes } }) => [() => flip(dy, axes)],
  pad: (dy, { inputs: [x], attrs: { before } }) => [
    () =>
      x.shape.reduce(
        (part, extent, axis) => slice(part, axis, before[axis] as number, (before[axis] as number) + extent),
        dy,
      ),
  ],
  concat: (dy, { inputs, attrs: { axis } }) => {
    let start = 0;
    return inputs.map((x) => {
      const from = start;
      start += x.shape[axis] as number;
      return () => slice(dy, axis, from, from + (x.shape[axis] as number));
    });
  },
  gather: (dy, { inputs: [table, indices] }) => [
    () => scatterRows(reshape(indices, [-1]), reshape(dy, [-1, ...table.shape.slice(1)]), table.shape[0] as number),
    undefined,
  ],
  scatterRows: (dy, { inputs: [indices] }) => [undefined, () => gather(dy, indices)],
};

/** step - 1 zeros between neighbours along an axis. */
function dilate(x: Value, axis: number, step: number): Value {
  const extent = x.shape[axis] as number;
  const column = reshape(x, [...x.shape.slice(0, axis + 1), 1, ...x.shape.slice(axis + 1)]);
  const padded = pad(
    column,
    column.shape.map((_, i) => (i === axis + 1 ? [0, step - 1] : [0, 0])),
  );
  const flat = reshape(
    padded,
    x.shape.map((size, i) => (i === axis ? size * step : size)),
  );
  return slice(flat, axis, 0, (extent - 1) * step + 1);
}

/** Sums x over the axes that broadcasting added or stretched, back to `shape`. */
export function sumTo(x: Value, shape: readonly number[]): Value {
  const lead = x.shape.length - shape.length;
  const axes = x.shape.flatMap((extent, axis) =>
    axis < lead || (shape[axis - lead] === 1 && extent !== 1) ? [axis] : [],
  );
  return reshape(sum(x, axes, { keepDims: true }), shape);
}
