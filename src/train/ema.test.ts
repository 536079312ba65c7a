import { expect, test } from "vitest";
import { average } from "./ema.js";

test("the decay grows with the number of updates up to the given one", () => {
  // k = 1: d = 2/11, 2/11 · 0 + 9/11 · 11 = 9; k = 2: d = 3/12, 0.25 · 9 + 0.75 · 1 = 3.
  const averaged = Float32Array.of(0, 1);
  average(averaged, Float32Array.of(11, 1), 0.9, 1);
  expect(averaged[0]).toBeCloseTo(9, 5);
  average(averaged, Float32Array.of(1, 1), 0.9, 2);
  expect(averaged[0]).toBeCloseTo(3, 5);
  // (1 + k) / (10 + k) is at least 0.9 from k = 80 on: 0.9 · 3 + 0.1 · 13 = 4.
  average(averaged, Float32Array.of(13, 1), 0.9, 1000);
  expect(averaged[0]).toBeCloseTo(4, 5);
  expect(averaged[1]).toBe(1);
});
