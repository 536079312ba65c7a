import { describe, expect, test } from "vitest";
import { tinySettings } from "../../test/tiny.js";
import { openEstimator } from "../estimators/index.js";
import { drawSamples, inBatches, pick } from "./samples.js";

const settings = tinySettings({ batch: { samples_per_epoch: 8, total: 4, per_device: 2 }, sampling: { steps: 10 } });
const estimator = await openEstimator(settings.estimator);
const draw = (step: number) => drawSamples(step, settings, estimator, 16);

describe("the samples of a step", () => {
  test("are numbered through an epoch, and from 0 again in the next", () => {
    const numbers = [1, 2, 3].map((step) => draw(step).map(({ epoch, index }) => [epoch, index]));
    expect(numbers).toEqual([
      [0, 1, 2, 3].map((index) => [0, index]),
      [4, 5, 6, 7].map((index) => [0, index]),
      [0, 1, 2, 3].map((index) => [1, index]),
    ]);
  });

  test("have noise of their own, the same at every draw", () => {
    const [first, second] = draw(1);
    expect(draw(1)[0]?.noise().initial).toEqual(first?.noise().initial);
    const all = [first, second, draw(2)[0], draw(3)[0]].map((sample) => String(sample?.noise().initial));
    all.push(String(first?.noise().step(0)), String(first?.noise().step(1)));
    expect(new Set(all).size).toBe(6);
  });

  test("have prompts in the template", () => {
    for (const { prompt } of draw(1)) expect(["a cat", "a dog", "a horse"]).toContain(prompt);
  });

  test("do not depend on how an epoch is divided into steps", () => {
    const whole = drawSamples(1, { ...settings, batch: { ...settings.batch, total: 8 } }, estimator, 16);
    const seen = ({ index, prompt, mask, noise, rng }: (typeof whole)[number]) => ({
      ...{ index, prompt, mask },
      noise: [noise().initial, noise().step(3)],
      drawn: rng(5).uniform(),
    });
    expect([...draw(1), ...draw(2)].map(seen)).toEqual(whole.map(seen));
  });

  test("depend on the seed", () => {
    const [first] = drawSamples(1, { ...settings, seed: settings.seed + 1 }, estimator, 16);
    expect(first?.noise().initial).not.toEqual(draw(1)[0]?.noise().initial);
  });

  test("have a mask for a direct estimator only", async () => {
    expect(draw(1).map(({ mask }) => mask.length)).toEqual([10, 10, 10, 10]);
    const rollout = await openEstimator({ ...tinySettings({ estimator: "rwr" }).estimator });
    expect(drawSamples(1, settings, rollout, 16).map(({ mask }) => mask)).toEqual([[], [], [], []]);
  });

  test("have empty prompts if there are none, as in a plan", () => {
    const promptless = { ...settings, prompts: { ...settings.prompts, template: "{}", train: [] } };
    expect(drawSamples(1, promptless, estimator, 0).map(({ prompt }) => prompt)).toEqual(["", "", "", ""]);
  });
});

test("items are picked in the order of the indices, and batches are consecutive", () => {
  expect(pick(["a", "b", "c"], [2, 0, 2])).toEqual(["c", "a", "c"]);
  expect(inBatches([1, 2, 3, 4, 5], 2)).toEqual([[1, 2], [3, 4], [5]]);
  expect(inBatches([], 2)).toEqual([]);
});
