import type { Value } from "../../graph/value.js";
import { add } from "../../ops/elementwise.js";
import { concat, flip, type PadAttrs, pad, padOp, reshape, slice, transpose } from "../../ops/movement.js";
import { sum } from "../../ops/reduce.js";
import type { OPS } from "../../ops/table.js";
import type { Rules } from "../rule.js";

type Movement = Pick<typeof OPS, "reshape" | "transpose" | "broadcastTo" | "slice" | "flip" | "pad" | "concat">;

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
        (part, extent, axis) => slice(part, axis, [before[axis] as number, (before[axis] as number) + extent]),
        dy,
      ),
  ],
  concat: (dy, { inputs, attrs: { axis } }) => {
    let start = 0;
    return inputs.map((x) => {
      const from = start;
      start += x.shape[axis] as number;
      return () => slice(dy, axis, [from, from + (x.shape[axis] as number)]);
    });
  },
};

/**
 * a + b, for two gradients of one value. If both are zero-padded gradients of slices that together cover the value, it
 * concatenates the slices instead of adding the padded tensors.
 */
export function sumOfGradients(a: Value, b: Value): Value {
  return concatenated(a, b) ?? concatenated(b, a) ?? add(a, b);
}

/** The sum as a concatenation, if along one axis a is padded after itself and b before itself by the other's extent. */
function concatenated(a: Value, b: Value): Value | undefined {
  const [front, back] = [paddingOf(a), paddingOf(b)];
  if (!front || !back) return undefined;
  const axis = front.after.findIndex((zeros) => zeros > 0);
  const others = (amounts: readonly number[]) => amounts.filter((_, i) => i !== axis);
  const noOther = [front.before, others(front.after), others(back.before), back.after].flat().every((n) => n === 0);
  return noOther && back.before[axis] === front.x.shape[axis] ? concat([front.x, back.x], axis) : undefined;
}

/** The operand and padding of a `pad`; undefined for any other op. */
function paddingOf({ node }: Value) {
  return node.op === padOp ? { x: node.inputs[0] as Value, ...(node.attrs as PadAttrs) } : undefined;
}

/** Inserts step - 1 zeros between neighboring elements along an axis. */
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
  return slice(flat, axis, [0, (extent - 1) * step + 1]);
}

/** Undoes broadcasting: sums x over the axes that were added or repeated, back to `shape`. */
export function sumTo(x: Value, shape: readonly number[]): Value {
  const lead = x.shape.length - shape.length;
  const axes = x.shape.flatMap((extent, axis) =>
    axis < lead || (shape[axis - lead] === 1 && extent !== 1) ? [axis] : [],
  );
  return reshape(sum(x, axes, { keepDims: true }), shape);
}
