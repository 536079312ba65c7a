import { describe, expect, test } from "vitest";
import { adamw, adamwState, clipGradNorm, l2Norm } from "./optimizer.js";

describe("AdamW", () => {
  test("first decays the weights, and then moves by the learning rate against the sign of the gradient at step 1", () => {
    // m̂ = g and √v̂ = |g| at step 1, so w ← w (1 − lr · decay) − lr · g / (|g| + ε)
    const weights = Float32Array.of(1, -2, 3);
    adamw(weights, [0.5, -4, 0], adamwState(3), { learningRate: 0.1, weightDecay: 0.01 });
    expect(weights[0]).toBeCloseTo(1 * 0.999 - 0.1, 6);
    expect(weights[1]).toBeCloseTo(-2 * 0.999 + 0.1, 6);
    expect(weights[2]).toBeCloseTo(3 * 0.999, 6);
  });

  test("follows the algorithm over several steps, with epsilon after the bias correction", () => {
    const options = { learningRate: 0.05, beta1: 0.8, beta2: 0.9, epsilon: 0.3, weightDecay: 0.1 };
    const gradients = [0.2, -1, 0.7, 0.1];
    const weights = Float32Array.of(0.4);
    const state = adamwState(1);
    let [w, m, v] = [0.4, 0, 0];
    for (const [i, g] of gradients.entries()) {
      adamw(weights, [g], state, options);
      m = 0.8 * m + 0.2 * g;
      v = 0.9 * v + 0.1 * g * g;
      const mHat = m / (1 - 0.8 ** (i + 1));
      const vHat = v / (1 - 0.9 ** (i + 1));
      w = w - 0.05 * 0.1 * w - (0.05 * mHat) / (Math.sqrt(vHat) + 0.3);
      expect(weights[0]).toBeCloseTo(w, 6);
    }
    expect(state.step).toBe(4);
  });
});

describe("clipping", () => {
  test("scales a long gradient to the norm and returns the norm before", () => {
    const gradient = Float64Array.of(3, 4);
    expect(clipGradNorm(gradient, 1)).toBe(5);
    expect(l2Norm(gradient)).toBeCloseTo(5 / (5 + 1e-6), 12);
  });

  test("does not change a short gradient", () => {
    const gradient = Float64Array.of(0.3, 0.4);
    expect(clipGradNorm(gradient, 5)).toBeCloseTo(0.5, 12);
    expect([...gradient]).toEqual([0.3, 0.4]);
  });
});
