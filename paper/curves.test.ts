import { expect, test } from "vitest";
import { best, type Curve, chooseRate, crossing, firstAt, meanCurve, until } from "./curves.js";

/** `rewards` at the training steps 0, 2, 4 …, with `samples` per step. */
const curve = (samples: number, ...rewards: number[]): Curve =>
  rewards.map((reward, i) => ({
    update: 2 * i,
    queries: 2 * i * samples,
    unet_calls: 20 * i * samples,
    reward,
    agreement: 0.7,
  }));

test("a mean over seeds has their standard deviation and ends with the shortest curve", () => {
  const mean = meanCurve([curve(8, 1, 2, 5), curve(8, 1, 4)]);
  expect(mean.map(({ update, reward, seeds }) => [update, reward, seeds])).toEqual([
    [0, 1, 2],
    [2, 3, 2],
  ]);
  // 2 and 4 around their mean 3: √((1 + 1) / 1)
  expect(mean[1]?.spread).toBeCloseTo(Math.SQRT2);
});

test("one seed has no spread, and no seeds give an empty curve", () => {
  expect(meanCurve([curve(8, 1, 2)])[1]?.spread).toBeNull();
  expect(meanCurve([])).toEqual([]);
});

test("the first evaluation at a reward is one after training began", () => {
  expect(firstAt(curve(8, 3, 1, 3), 3)?.update).toBe(4);
  expect(firstAt(curve(8, 1, 2), 3)).toBeUndefined();
  expect(best(curve(8, 1, 3, 3, 2))?.update).toBe(2);
});

test("a crossing compares with the cost of the baseline until its best, and with that of its whole run", () => {
  // The baseline's best is 2.5, after 4 steps of 64 samples: 256 queries. The method is above it at step 4 of 8 samples: 32.
  const found = crossing(curve(8, 1, 2, 3, 4), curve(64, 1, 2, 2.5, 2.2));
  expect(found?.baseline.best.queries).toBe(256);
  expect(found?.method?.update).toBe(4);
  // The whole run has 6 steps: 384 queries.
  expect(found?.queries).toEqual({ until_best: 8, whole_run: 12 });
  expect(found?.unet_calls).toEqual({ until_best: 8, whole_run: 12 });
});

test("a curve until a reward ends where it is first reached", () => {
  expect(until(curve(64, 1, 3, 2, 4), 2.5)?.map(({ reward }) => reward)).toEqual([1, 3]);
  expect(until(curve(64, 1, 3), 3.5)).toBeUndefined();
});

test("if the two start at different rewards, the gain must be as large as well", () => {
  // The baseline gains 1, from 0.5 to 1.5. The method starts at 1, so it has to reach 2.
  expect(crossing(curve(8, 1, 1.6, 2.1), curve(64, 0.5, 1.5))?.reward).toBe(2);
  expect(crossing(curve(8, 1, 1.6, 2.1), curve(64, 0.5, 1.5))?.method?.update).toBe(4);
});

test("a reward that is never reached has no factor", () => {
  const found = crossing(curve(8, 1, 1.1), curve(64, 1, 2));
  expect(found).toMatchObject({ reward: 2, method: null, queries: null });
  // A baseline that never improves has no crossing.
  expect(crossing(curve(8, 1, 2), curve(64, 3, 2))).toBeUndefined();
});

test("the learning rate with the highest reward is chosen among those that keep the prompt", () => {
  const trials = [
    { rate: 1, reward: 5, agreement: 0.7 },
    { rate: 2, reward: 6, agreement: 0.65 },
    { rate: 3, reward: 9, agreement: 0.1 },
  ];
  expect(chooseRate(trials, 0.7)?.rate).toBe(2);
  expect(chooseRate(trials.slice(2), 0.7)?.rate).toBe(3);
  expect(
    chooseRate(
      [
        { rate: 3, reward: 9, agreement: 0.1 },
        { rate: 4, reward: 3, agreement: 0.2 },
      ],
      0.7,
    )?.rate,
  ).toBe(4);
  expect(chooseRate([], 0.7)).toBeUndefined();
});
