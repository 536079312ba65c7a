import { describe, expect, test } from "vitest";
import type { EarlyStopSettings } from "../config/settings.js";
import { type EvaluationSummary, verdict } from "./early-stop.js";

const rule: EarlyStopSettings = { monitor: "held-out", patience: 2, min_delta: 0, min_diversity: null };

/** Evaluations with these held-out rewards at steps 0 (the base model), 2, 4, 6 …; the reward rises at each step. */
const held = (...values: (number | undefined)[]): EvaluationSummary[] =>
  values.map((heldOut, i) => ({ step: 2 * i, reward: i, heldOut }));

describe("early stopping", () => {
  test("ends a run whose held-out reward has not risen above its best in `patience` evaluations", () => {
    expect(verdict(held(1, 2, 3, 2.5), rule)).toEqual({ best: 4, stop: undefined });
    expect(verdict(held(1, 2, 3, 2.5, 2.9), rule)).toEqual({
      best: 4,
      stop: { kind: "no improvement", monitor: "held-out", evaluations: 2, top: { step: 4, reward: 2, heldOut: 3 } },
    });
    expect(verdict(held(1, 2, 3, 2.5, 3.1), rule)).toEqual({ best: 8, stop: undefined });
  });

  test("counts a gain as an improvement only if it is more than min_delta", () => {
    const strict = { ...rule, min_delta: 0.5 };
    // 1 → 1.75 is an improvement. 2 and 2.25 are not, because they are at most 0.5 above 1.75; 2.5 is.
    expect(verdict(held(1, 1.75, 2, 2.25), strict)).toMatchObject({ best: 2, stop: { evaluations: 2 } });
    expect(verdict(held(1, 1.75, 2, 2.5), strict)).toEqual({ best: 6, stop: undefined });
  });

  test("compares with the base model, which is not a checkpoint", () => {
    const { best, stop } = verdict(held(5, 3, 4), rule);
    expect(best).toBe(4);
    expect(stop).toMatchObject({ kind: "no improvement", top: { step: 0 } });
  });

  test("can monitor the reward itself, and never ends a run without patience", () => {
    expect(verdict(held(3, 2, 1, 0), { ...rule, monitor: "reward" })).toEqual({ best: 6, stop: undefined });
    expect(verdict(held(3, 2, 1, 0, 0, 0), { ...rule, patience: null })).toEqual({ best: 2, stop: undefined });
  });

  test("ignores evaluations without the monitored reward", () => {
    expect(verdict(held(undefined, undefined, 3, 2, undefined, undefined), rule)).toEqual({ best: 4, stop: undefined });
  });

  test("ends a run whose diversity is below a share of the base model's, and prefers checkpoints above it", () => {
    const diverse = (...values: number[]) =>
      values.map((diversity, i) => ({ step: i, reward: i, heldOut: i, diversity }));
    const floor = { ...rule, min_diversity: 0.5 };
    expect(verdict(diverse(0.4, 0.3, 0.2), floor)).toEqual({ best: 2, stop: undefined });
    expect(verdict(diverse(0.4, 0.3, 0.2, 0.19), floor)).toEqual({
      best: 2,
      stop: { kind: "diversity", diversity: 0.19, share: 0.5, base: 0.4 },
    });
    // If no checkpoint keeps the diversity, the highest reward is best.
    expect(verdict(diverse(0.4, 0.1), floor).best).toBe(1);
  });

  test("without a rule takes the highest evaluation reward as the best", () => {
    const rewards = [9, 5, 7, 6, 7].map((reward, step) => ({ step, reward }));
    expect(verdict(rewards, null)).toEqual({ best: 2, stop: undefined });
    expect(verdict([], null)).toEqual({ best: undefined, stop: undefined });
  });
});
