import { expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { layoutOf } from "../nn/lora.js";
import { requireFiniteParameters } from "./finite.js";

test("a value that is not finite is reported with its tensor", () => {
  const layout = layoutOf([["unet.to_q", { layer: { weight: [2, 2] }, rank: 1, scale: 1 }]]);
  const check = (...values: number[]) => requireFiniteParameters(Float64Array.from(values), layout, "the gradient");
  expect(() => check(1, -2, 0, 1e300)).not.toThrow();
  expect(() => check(1, 2, Number.NaN, Number.POSITIVE_INFINITY)).toThrow(
    inputError("not-finite", { tensor: "unet.to_q.lora_B.weight" }),
  );
  expect(() => check(1, Number.NEGATIVE_INFINITY, 3, 4)).toThrow(
    inputError("not-finite", { tensor: "unet.to_q.lora_A.weight" }),
  );
});
