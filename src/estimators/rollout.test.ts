/** The weights that rollout estimators give to the samples of a step, and how they divide the step into updates. */
import { describe, expect, test } from "vitest";
import { advantages, ddpo, stepWeights } from "./ddpo.js";
import { equalParts } from "./rollout.js";
import { rewardWeights, rwr } from "./rwr.js";

const settings = ddpo.schema.parse({ name: "ddpo", buffer_size: 3, min_count: 2, advantage_clip: 5 });
const scored = (...rewarded: [string, number][]) => rewarded.map(([prompt, reward]) => ({ prompt, reward }));

describe("DDPO's advantages", () => {
  test("use the statistics of the prompt if it has enough rewards, and those of the step otherwise", () => {
    const { weights } = advantages(scored(["cat", 1], ["cat", 3], ["dog", 8]), {}, settings);
    // The cats have mean 2 and deviation 1. The dog is compared with 1, 3 and 8: mean 4, deviation √(26/3).
    for (const [i, expected] of [-1, 1, 4 / Math.sqrt(26 / 3)].entries()) expect(weights[i]).toBeCloseTo(expected, 5);
  });

  test("store the last rewards of a prompt, as many as the buffer has room for", () => {
    const first = advantages(scored(["cat", 1], ["cat", 2]), {}, settings);
    const second = advantages(scored(["cat", 3], ["cat", 6]), first.state, settings);
    expect(second.state).toEqual({ cat: [2, 3, 6] });
    // 2, 3 and 6 have mean 11/3 and deviation √(26/9).
    expect(second.weights[1]).toBeCloseTo((6 - 11 / 3) / Math.sqrt(26 / 9), 5);
  });

  test("are clipped, and 0 if all rewards are equal", () => {
    const spread: [string, number][] = Array.from({ length: 100 }, (_, i) => [`${i}`, i === 0 ? 1 : 0]);
    expect(advantages(scored(...spread), {}, settings).weights[0]).toBe(5);
    expect(advantages(scored(["a", 2], ["a", 2]), {}, settings).weights).toEqual([0, 0]);
  });

  test("survive the JSON of a checkpoint, for any prompt", () => {
    const { state } = advantages(scored(["__proto__", 1.1], ["cat", 1 / 3]), {}, settings);
    const again = advantages(scored(["cat", 1]), JSON.parse(JSON.stringify(state)), settings);
    expect(again.state.cat).toEqual([1 / 3, 1]);
  });
});

test("DDPO's step weights are equal or proportional to the noise, with a mean of 1, and 0 without noise", () => {
  const steps = [{ sigma: 3 }, { sigma: 1 }, { sigma: 0 }];
  expect(stepWeights(steps, "equal")).toEqual([1, 1, 0]);
  expect(stepWeights(steps, "noise")).toEqual([1.5, 0.5, 0]);
});

describe("the weights of reward-weighted regression", () => {
  test("have mean 1 and are proportional to exp(normalized reward / temperature)", () => {
    const weights = rewardWeights(scored(["a", 0], ["b", 2]), 0.5);
    // The normalized rewards are −1 and 1. At temperature ½ their weights differ by a factor of e⁴.
    expect((weights[1] as number) / (weights[0] as number)).toBeCloseTo(Math.exp(4), 2);
    expect(((weights[0] as number) + (weights[1] as number)) / 2).toBeCloseTo(1, 6);
    expect(rewardWeights(scored(["a", 3], ["b", 3]), 0.5)).toEqual([1, 1]);
  });
});

test("the optimizer updates of a step take every n-th sample", () => {
  expect(equalParts(6, 2)).toEqual([
    [0, 2, 4],
    [1, 3, 5],
  ]);
});

test("settings that conflict with others are reported", () => {
  const others = { sampling: { steps: 10, eta: 0 }, batch: { total: 16 } };
  expect(ddpo.problems?.(settings, others)).toEqual([
    expect.objectContaining({
      path: [],
      facts: { setting: "sampling.eta", with: "estimator", found: 0, expected: 1 },
    }),
  ]);
  const three = rwr.schema.parse({ name: "rwr", updates: 3 });
  expect(rwr.problems?.(three, others)).toEqual([
    expect.objectContaining({ path: ["updates"], facts: { found: 3, with: "batch.total", total: 16 } }),
  ]);
});

test("one sample per step is refused by estimators that compare samples, unless a prompt is compared with its past", () => {
  const others = { sampling: { steps: 10, eta: 1 }, batch: { total: 1 } };
  const one = { updates: 1 } as const;
  const problem = expect.objectContaining({
    path: [],
    facts: { setting: "batch.total", with: "estimator", found: 1, expected: 2 },
  });
  const of = (given: object) => ddpo.problems?.(ddpo.schema.parse({ name: "ddpo", ...one, ...given }), others);
  expect(of({})).toEqual([problem]);
  expect(of({ buffer_size: 0, min_count: 1 })).toEqual([problem]);
  expect(of({ min_count: 2 })).toEqual([]);
  expect(rwr.problems?.(rwr.schema.parse({ name: "rwr", ...one }), others)).toEqual([problem]);
});
