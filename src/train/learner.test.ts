import { expect, test } from "vitest";
import { flatLayout } from "../nn/flat.js";
import { InputError } from "../tensor/errors.js";
import { requireFinite } from "./learner.js";

test("a gradient that is not finite is told with the first of the adapter's tensors that has it", () => {
  const factor = (name: string, shape: number[]) => ({ name, shape, module: "unet.to_q", factor: "A" as const });
  const layout = { ...flatLayout([factor("first", [2, 1]), factor("second", [1, 2])]), rank: 1, scale: 1 };
  const told = (...values: number[]) => requireFinite(Float64Array.from(values), layout, "the gradient");
  expect(() => told(1, -2, 0, 1e300)).not.toThrow();
  expect(() => told(1, 2, Number.NaN, Number.POSITIVE_INFINITY)).toThrow(
    new InputError("the gradient of second is NaN"),
  );
  expect(() => told(1, Number.NEGATIVE_INFINITY, 3, 4)).toThrow(new InputError("the gradient of first is -Infinity"));
});
