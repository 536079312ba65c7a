import { describe, expect, test } from "vitest";
import { tinySettings } from "../../test/tiny.js";
import { openEstimator } from "../estimators/index.js";
import { drawSamples } from "./samples.js";

const settings = tinySettings({ batch: { samples_per_epoch: 8, total: 4, per_device: 2 }, sampling: { steps: 10 } });
const estimator = await openEstimator(settings.estimator);
const draw = (step: number) => drawSamples(step, settings, estimator, 16);

describe("the pictures of an update", () => {
  test("number through an epoch and start again in the next", () => {
    const numbers = [1, 2, 3].map((step) => draw(step).map(({ epoch, index }) => [epoch, index]));
    expect(numbers).toEqual([
      [0, 1, 2, 3].map((index) => [0, index]),
      [4, 5, 6, 7].map((index) => [0, index]),
      [0, 1, 2, 3].map((index) => [1, index]),
    ]);
  });

  test("each have their own noise, the same whenever it is asked for", () => {
    const [first, second] = draw(1);
    expect(draw(1)[0]?.noise().initial).toEqual(first?.noise().initial);
    const all = [first, second, draw(2)[0], draw(3)[0]].map((sample) => String(sample?.noise().initial));
    all.push(String(first?.noise().step(0)), String(first?.noise().step(1)));
    expect(new Set(all).size).toBe(6);
  });

  test("have prompts in the template", () => {
    for (const { prompt } of draw(1)) expect(["a cat", "a dog", "a horse"]).toContain(prompt);
  });
});
