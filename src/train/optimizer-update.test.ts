import { describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { FAKE_LAYOUT } from "../../test/fake-engine.js";
import { tinySettings } from "../../test/tiny.js";
import { type GradientResult, initialLossScale } from "../engine/index.js";
import { optimizerUpdate } from "./optimizer-update.js";
import { initialState } from "./state.js";

const settings = tinySettings({
  optimizer: { learning_rate: 0.5, beta1: 0, beta2: 0, epsilon: 1e-8, weight_decay: 0, max_grad_norm: 10 },
});
const resultOf = (...gradient: number[]): GradientResult => ({
  gradient: Float64Array.from(gradient),
  overflowed: false,
  loss: 0,
  cost: { unetCalls: 0, rewardQueries: 0 },
});
const overflow: GradientResult = { ...resultOf(Number.NaN, Number.NaN), overflowed: true };

describe("an optimizer update", () => {
  test("changes the weights in place and returns the gradient's norm before clipping", () => {
    const state = initialState(Float32Array.of(1, 1), { ema: { decay: null } });
    const result = resultOf(-30, 40);
    expect(optimizerUpdate(state, result, settings, FAKE_LAYOUT)).toBe(50);
    // Clipped from norm 50 to 10.
    expect(result.gradient[0]).toBeCloseTo(-6, 5);
    expect(result.gradient[1]).toBeCloseTo(8, 5);
    // With β₁ = β₂ = 0, Adam's step is the sign of the gradient times the learning rate.
    expect(state.weights[0]).toBeCloseTo(1.5, 6);
    expect(state.weights[1]).toBeCloseTo(0.5, 6);
    expect(state.optimizer.step).toBe(1);
  });

  test("passes weight decay to the optimizer", () => {
    const decaying = { ...settings, optimizer: { ...settings.optimizer, weight_decay: 0.5 } };
    const state = initialState(Float32Array.of(8, 4), { ema: { decay: null } });
    optimizerUpdate(state, resultOf(0, 0), decaying, FAKE_LAYOUT);
    // w ← w (1 − 0.5 · 0.5)
    expect([...state.weights]).toEqual([6, 3]);
  });

  test("averages the new weights", () => {
    const ema = { decay: 0.999 };
    const state = initialState(Float32Array.of(1, 1), { ema });
    optimizerUpdate(state, resultOf(-1, 1), { ...settings, ema }, FAKE_LAYOUT);
    // d = min(0.999, 2/11) after the first update: 2/11 · 1 + 9/11 · w
    expect(state.averaged?.[0]).toBeCloseTo(2 / 11 + (9 / 11) * 1.5, 6);
    expect(state.averaged?.[1]).toBeCloseTo(2 / 11 + (9 / 11) * 0.5, 6);
  });

  test("names the tensor of a weight that is no longer finite", () => {
    const state = initialState(Float32Array.of(1, 3e38), { ema: { decay: null } });
    const huge = { ...settings, optimizer: { ...settings.optimizer, learning_rate: 1e38 } };
    expect(() => optimizerUpdate(state, resultOf(0, -1), huge, FAKE_LAYOUT)).toThrow(
      inputError("not-finite", { tensor: "unet.to_q.lora_B.weight" }),
    );
  });
});

describe("in float16", () => {
  test("an update counts towards a larger loss scale", () => {
    const state = { ...initialState(Float32Array.of(1, 1), { ema: { decay: null } }), lossScale: initialLossScale() };
    state.lossScale.skipped = 3;
    optimizerUpdate(state, resultOf(1, 1), settings, FAKE_LAYOUT);
    expect(state.lossScale).toEqual({ scale: 256, good: 1, skipped: 0 });
  });

  test("a gradient that overflowed is skipped, and the loss scale is halved", () => {
    const ema = { decay: 0.9 };
    const state = { ...initialState(Float32Array.of(1, 1), { ema }), lossScale: initialLossScale() };
    const before = structuredClone(state);
    expect(optimizerUpdate(state, overflow, { ...settings, ema }, FAKE_LAYOUT)).toBeNull();
    expect(state).toEqual({ ...before, lossScale: { scale: 128, good: 0, skipped: 1 } });
  });

  test("ten skipped updates in a row are an error", () => {
    const state = { ...initialState(Float32Array.of(1, 1), { ema: { decay: null } }), lossScale: initialLossScale() };
    const update = () => optimizerUpdate(state, overflow, settings, FAKE_LAYOUT);
    for (let i = 0; i < 9; i++) expect(update()).toBeNull();
    expect(update).toThrow(inputError("not-finite", { skipped: 10, lossScale: 0.5 }));
  });
});
