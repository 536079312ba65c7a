import { expect, test } from "vitest";
import { InputError } from "../errors/index.js";
import { layoutOf } from "../nn/lora.js";
import { requireFinite } from "./replica.js";

test("a gradient that is not finite is told with the first tensor that has it", () => {
  const layout = layoutOf([["unet.to_q", { layer: { weight: [2, 2] }, rank: 1, scale: 1 }]]);
  const told = (...values: number[]) => requireFinite(Float64Array.from(values), layout, "the gradient");
  expect(() => told(1, -2, 0, 1e300)).not.toThrow();
  expect(() => told(1, 2, Number.NaN, Number.POSITIVE_INFINITY)).toThrow(
    new InputError("not-finite", "the gradient of unet.to_q.lora_B.weight is NaN"),
  );
  expect(() => told(1, Number.NEGATIVE_INFINITY, 3, 4)).toThrow(
    new InputError("not-finite", "the gradient of unet.to_q.lora_A.weight is -Infinity"),
  );
});
