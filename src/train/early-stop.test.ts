import { describe, expect, test } from "vitest";
import type { EarlyStopSettings } from "../config/settings.js";
import { type EvaluationSummary, verdict } from "./early-stop.js";

const rule: EarlyStopSettings = { monitor: "held-out", patience: 2, min_delta: 0, min_diversity: null };

/** Held-out rewards of the model as it was and after steps 2, 4, 6 …; the reward rises all the way. */
const held = (...values: (number | undefined)[]): EvaluationSummary[] =>
  values.map((heldOut, i) => ({ step: 2 * i, reward: i, heldOut }));

describe("the rule of an early stop", () => {
  test("ends a run whose held-out reward has not risen above its best in `patience` evaluations", () => {
    expect(verdict(held(1, 2, 3, 2.5), rule)).toEqual({ best: 4, stop: undefined });
    expect(verdict(held(1, 2, 3, 2.5, 2.9), rule)).toEqual({
      best: 4,
      stop: { kind: "no improvement", monitor: "held-out", evaluations: 2, top: { step: 4, reward: 2, heldOut: 3 } },
    });
    expect(verdict(held(1, 2, 3, 2.5, 3.1), rule)).toEqual({ best: 8, stop: undefined });
  });

  test("asks of a gain that it is more than min_delta", () => {
    const strict = { ...rule, min_delta: 0.5 };
    // 1 → 1.75 is a gain; 2 is none, 2.25 neither; then 2.5 is one above 1.75.
    expect(verdict(held(1, 1.75, 2, 2.25), strict)).toMatchObject({ best: 2, stop: { evaluations: 2 } });
    expect(verdict(held(1, 1.75, 2, 2.5), strict)).toEqual({ best: 6, stop: undefined });
  });

  test("has the model as it was to surpass, which is no checkpoint", () => {
    const { best, stop } = verdict(held(5, 3, 4), rule);
    expect(best).toBe(4);
    expect(stop).toMatchObject({ kind: "no improvement", top: { step: 0 } });
  });

  test("watches the reward itself where it says so, and never ends without patience", () => {
    expect(verdict(held(3, 2, 1, 0), { ...rule, monitor: "reward" })).toEqual({ best: 6, stop: undefined });
    expect(verdict(held(3, 2, 1, 0, 0, 0), { ...rule, patience: null })).toEqual({ best: 2, stop: undefined });
  });

  test("passes over evaluations that did not measure what it watches", () => {
    expect(verdict(held(undefined, undefined, 3, 2, undefined, undefined), rule)).toEqual({ best: 4, stop: undefined });
  });

  test("ends a run whose diversity is below a share of the base model's, and takes no such checkpoint for the best", () => {
    const diverse = (...values: number[]) =>
      values.map((diversity, i) => ({ step: i, reward: i, heldOut: i, diversity }));
    const floor = { ...rule, min_diversity: 0.5 };
    expect(verdict(diverse(0.4, 0.3, 0.2), floor)).toEqual({ best: 2, stop: undefined });
    expect(verdict(diverse(0.4, 0.3, 0.2, 0.19), floor)).toEqual({
      best: 2,
      stop: { kind: "diversity", diversity: 0.19, share: 0.5, base: 0.4 },
    });
    // Where none keeps it, the best is still the best.
    expect(verdict(diverse(0.4, 0.1), floor).best).toBe(1);
  });

  test("of a run without one is that the highest evaluation reward is best", () => {
    const rewards = [9, 5, 7, 6, 7].map((reward, step) => ({ step, reward }));
    expect(verdict(rewards, null)).toEqual({ best: 2, stop: undefined });
    expect(verdict([], null)).toEqual({ best: undefined, stop: undefined });
  });
});
