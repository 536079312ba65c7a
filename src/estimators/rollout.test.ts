/** What the estimators that see all rewards of a step make of them. */
import { describe, expect, test } from "vitest";
import { advantages, ddpo, stepWeights } from "./ddpo.js";
import { equalParts } from "./rollout.js";
import { rewardWeights, rwr } from "./rwr.js";

const settings = ddpo.schema.parse({ name: "ddpo", buffer_size: 3, min_count: 2, advantage_clip: 5 });
const round = (...rewarded: [string, number][]) => rewarded.map(([prompt, reward]) => ({ prompt, reward }));

describe("DDPO's advantages", () => {
  test("are by the prompt's own rewards where there are enough of them, and by the round's where not", () => {
    const { weights } = advantages(round(["cat", 1], ["cat", 3], ["dog", 8]), {}, settings);
    // The cats have mean 2 and deviation 1; the dog is measured by 1, 3 and 8: mean 4, deviation √(26/3).
    for (const [i, expected] of [-1, 1, 4 / Math.sqrt(26 / 3)].entries()) expect(weights[i]).toBeCloseTo(expected, 5);
  });

  test("remember a prompt's last rewards, and no more than the buffer holds", () => {
    const first = advantages(round(["cat", 1], ["cat", 2]), {}, settings);
    const second = advantages(round(["cat", 3], ["cat", 6]), first.state, settings);
    expect(second.state).toEqual({ cat: [2, 3, 6] });
    // Of 2, 3 and 6: mean 11/3, deviation √(26/9).
    expect(second.weights[1]).toBeCloseTo((6 - 11 / 3) / Math.sqrt(26 / 9), 5);
  });

  test("are clipped, and 0 where all rewards are alike", () => {
    const spread: [string, number][] = Array.from({ length: 100 }, (_, i) => [`${i}`, i === 0 ? 1 : 0]);
    expect(advantages(round(...spread), {}, settings).weights[0]).toBe(5);
    expect(advantages(round(["a", 2], ["a", 2]), {}, settings).weights).toEqual([0, 0]);
  });

  test("come through a checkpoint's JSON unchanged, whatever the prompt is called", () => {
    const { state } = advantages(round(["__proto__", 1.1], ["cat", 1 / 3]), {}, settings);
    const again = advantages(round(["cat", 1]), JSON.parse(JSON.stringify(state)), settings);
    expect(again.state.cat).toEqual([1 / 3, 1]);
  });
});

test("DDPO's steps count alike or by their noise, in the mean 1, and those without noise not at all", () => {
  const steps = [{ sigma: 3 }, { sigma: 1 }, { sigma: 0 }];
  expect(stepWeights(steps, "equal")).toEqual([1, 1, 0]);
  expect(stepWeights(steps, "noise")).toEqual([1.5, 0.5, 0]);
});

describe("the weights of reward-weighted regression", () => {
  test("have mean 1, and grow with the reward as the exponential of deviations over the temperature", () => {
    const weights = rewardWeights(round(["a", 0], ["b", 2]), 0.5);
    // Rewards of −1 and 1 deviations, at temperature ½: e⁴ apart.
    expect((weights[1] as number) / (weights[0] as number)).toBeCloseTo(Math.exp(4), 2);
    expect(((weights[0] as number) + (weights[1] as number)) / 2).toBeCloseTo(1, 6);
    expect(rewardWeights(round(["a", 3], ["b", 3]), 0.5)).toEqual([1, 1]);
  });
});

test("a step's optimizer updates share its samples evenly, and each neighbourhood of them", () => {
  expect(equalParts(6, 2)).toEqual([
    [0, 2, 4],
    [1, 3, 5],
  ]);
});

test("settings that do not go with the others are told", () => {
  const others = { sampling: { steps: 10, eta: 0 }, batch: { total: 16 } };
  expect(ddpo.problems?.(settings, others)).toEqual([
    { path: [], message: expect.stringContaining("sampling.eta: 1") },
  ]);
  const three = rwr.schema.parse({ name: "rwr", updates: 3 });
  expect(rwr.problems?.(three, others)).toEqual([
    { path: ["updates"], message: "is 3, which does not divide batch.total 16; give one that does" },
  ]);
});
