import { describe, expect, test } from "vitest";
import { initialLossScale, MAX_SCALE, MIN_SCALE, recordOverflow, recordUpdate, scaleFactor } from "./loss-scale.js";

describe("the loss scale", () => {
  test("is halved by every skipped update, and counts those in a row", () => {
    const state = initialLossScale();
    recordOverflow(state);
    recordOverflow(state);
    expect(state).toEqual({ scale: 64, good: 0, skipped: 2 });
    recordUpdate(state);
    expect(state).toEqual({ scale: 64, good: 1, skipped: 0 });
  });

  test("doubles after 50 updates without a skipped one between them", () => {
    const state = initialLossScale();
    const updates = (count: number) => {
      for (let i = 0; i < count; i++) recordUpdate(state);
      return state.scale;
    };
    expect([updates(49), updates(1), updates(49), updates(1)]).toEqual([256, 512, 512, 1024]);
    updates(49);
    recordOverflow(state);
    expect([updates(49), updates(1)]).toEqual([512, 1024]);
  });

  test("stays within its bounds", () => {
    const state = initialLossScale();
    for (let i = 0; i < 1000; i++) recordUpdate(state);
    expect(state.scale).toBe(MAX_SCALE);
    for (let i = 0; i < 100; i++) {
      recordOverflow(state);
      state.skipped = 0;
    }
    expect(state.scale).toBe(MIN_SCALE);
  });

  test("brings the largest element of an upstream to more than half of itself, by a power of two", () => {
    for (const largest of [1e-7, 0.3, 1, 1.5, 12_345]) {
      const factor = scaleFactor(1024, Float32Array.of(0, -largest, largest / 3));
      expect(Number.isInteger(Math.log2(factor))).toBe(true);
      expect(largest * factor).toBeGreaterThan(512);
      expect(largest * factor).toBeLessThanOrEqual(1024);
    }
    expect(scaleFactor(1024, new Float32Array(3))).toBe(1);
  });
});
