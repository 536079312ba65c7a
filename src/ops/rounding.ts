/** Rounding, the rest of a division, and gradients that pass through them. */
import { apply1, type F64Array, type OpDef, showType, type TensorType, type Value } from "../graph/value.js";
import { binary, type NoAttrs, type Operand, pair, unary } from "./elementwise.js";

/** To the nearest integer; a tie goes to the even one, as in IEEE 754. */
function roundToEven(x: number): number {
  return Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x);
}

/** To the nearest integer; a tie goes to the even one. */
export const roundOp = unary("round", "Round", roundToEven);

/** x - y trunc(x / y), with the sign of x: fmod of C, and % of JavaScript. */
const floatRemainder = binary("remainder", "Mod", (x, y) => x % y);
export const remainderOp: OpDef<NoAttrs> = {
  ...floatRemainder,
  emit: (w, inputs) => w.node("Mod", inputs, { fmod: 1 }),
};

/**
 * The value of the first input with the gradient of the second: the straight-through estimator (Bengio et al. 2013) if the first
 * is the second, rounded.
 */
export const straightThroughOp: OpDef<NoAttrs> = {
  name: "straightThrough",
  infer: ([value, like]) => {
    const [found, expected] = [value as TensorType, like as TensorType];
    if (showType(found) !== showType(expected)) {
      throw new TypeError(`straightThrough: ${showType(found)} and ${showType(expected)} differ`);
    }
    return [found];
  },
  emit: (w, [value]) => w.node("Identity", [value as string]),
  evaluate: ([value]) => [value as F64Array],
};

export const round = (x: Value): Value => apply1(roundOp, [x], {});

/** The remainder of x / y with the sign of x, as torch.fmod. */
export const remainder = (x: Operand, y: Operand): Value => pair(remainderOp, x, y);

/** `value` with the gradient of `like`. */
export const straightThrough = (value: Value, like: Value): Value => apply1(straightThroughOp, [value, like], {});
