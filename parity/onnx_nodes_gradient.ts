/** Compares the gradient of an imported ONNX model with central differences. */
import { gradients } from "../src/autodiff/index.js";
import { interpret } from "../src/graph/interpret.js";
import type { F64Array, Value } from "../src/graph/value.js";
import { constant } from "../src/ops/index.js";
import { isFloating } from "../src/tensor/dtype.js";
import { Rng } from "../src/tensor/rng.js";
import { sizeOf } from "../src/tensor/shape.js";

export type Arrays = Readonly<Record<string, F64Array>>;

export interface Built {
  readonly inputs: Readonly<Record<string, Value>>;
  readonly outputs: Readonly<Record<string, Value>>;
  readonly given: Arrays;
}

const STEP = 1e-5;

/** Compares the gradient of a random combination of all floating point outputs along random directions. */
export function gradientDifference({
  inputs,
  outputs,
  given,
  run,
}: Built & { readonly run: (feeds: Arrays) => Arrays }) {
  const wrt = Object.entries(inputs).filter(([, { dtype }]) => isFloating(dtype));
  const floats = Object.entries(outputs).filter(([, { dtype, shape }]) => isFloating(dtype) && sizeOf(shape) > 0);
  if (wrt.length === 0 || floats.length === 0) return undefined;
  const rng = new Rng(11);
  let note: string | undefined;
  for (const [name, y] of floats) {
    const upstream = Float64Array.from({ length: sizeOf(y.shape) }, () => rng.normal());
    let found: readonly (Value | undefined)[];
    try {
      found = gradients(
        [{ value: y, gradient: constant(upstream, y.shape) }],
        wrt.map(([, value]) => value),
      );
    } catch (error) {
      note = `!the output ${name} has no gradient (${String(error).slice(0, 120)})`;
      continue;
    }
    const graph = Object.fromEntries(found.flatMap((value, i) => (value ? [[`d${i}`, value] as const] : [])));
    const computed = interpret({ name: "gradient", inputs, outputs: graph }, given);
    for (const [i, [key, value]] of wrt.entries()) {
      if (sizeOf(value.shape) === 0) continue;
      for (let trial = 0; trial < 2; trial++) {
        const direction = Float64Array.from({ length: sizeOf(value.shape) }, () => rng.normal());
        const at = (step: number) => {
          const base = given[key] as F64Array;
          const moved = { shape: base.shape, data: base.data.map((x, at) => x + step * (direction[at] as number)) };
          return (run({ ...given, [key]: moved })[name] as F64Array).data;
        };
        const [low, middle, high] = [at(-STEP), at(0), at(STEP)];
        const slope = (a: Float64Array, b: Float64Array, length: number) =>
          a.reduce((sum, x, at) => sum + (upstream[at] as number) * (((b[at] as number) - x) / length), 0);
        const [left, right] = [slope(low, middle, STEP), slope(middle, high, STEP)];
        const numeric = (left + right) / 2;
        const array = computed[`d${i}`]?.data;
        const analytic = array ? array.reduce((sum, x, at) => sum + x * (direction[at] as number), 0) : 0;
        const scale = Math.max(1, Math.abs(numeric), Math.abs(analytic));
        if (Number.isFinite(numeric) && Number.isNaN(analytic)) return `the gradient of ${name} at ${key} is NaN`;
        if (!Number.isFinite(numeric) || Math.abs(numeric - analytic) <= 1e-4 * scale) continue;
        // At a kink the two sides differ, and at a jump the slope grows as the step shrinks.
        const isOff = (a: number, b: number) => Math.abs(a - b) > 1e-3 * Math.max(1, Math.abs(a), Math.abs(b));
        if (isOff(left, right) || isOff(numeric, slope(at(-STEP / 4), at(STEP / 4), STEP / 2))) continue;
        if (!array) note = `!the output ${name} has no gradient with respect to ${key}`;
        else return `the gradient of ${name} at ${key} is ${analytic}, expected ${numeric}`;
      }
    }
  }
  return note;
}
