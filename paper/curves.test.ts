import { expect, test } from "vitest";
import { best, type Curve, chooseRate, crossing, firstAt, meanCurve, until } from "./curves.js";

/** `rewards` at the updates 0, 2, 4 …, of `pictures` an update. */
const curve = (pictures: number, ...rewards: number[]): Curve =>
  rewards.map((reward, i) => ({
    update: 2 * i,
    queries: 2 * i * pictures,
    unet_calls: 20 * i * pictures,
    reward,
    agreement: 0.7,
  }));

test("a mean over seeds has their standard deviation and ends where the shortest does", () => {
  const mean = meanCurve([curve(8, 1, 2, 5), curve(8, 1, 4)]);
  expect(mean.map(({ update, reward, seeds }) => [update, reward, seeds])).toEqual([
    [0, 1, 2],
    [2, 3, 2],
  ]);
  // 2 and 4 about 3: √((1 + 1) / 1)
  expect(mean[1]?.spread).toBeCloseTo(Math.SQRT2);
});

test("one seed has no spread, and no seeds have no curve", () => {
  expect(meanCurve([curve(8, 1, 2)])[1]?.spread).toBeNull();
  expect(meanCurve([])).toEqual([]);
});

test("the first evaluation at a reward is one after training began", () => {
  expect(firstAt(curve(8, 3, 1, 3), 3)?.update).toBe(4);
  expect(firstAt(curve(8, 1, 2), 3)).toBeUndefined();
  expect(best(curve(8, 1, 3, 3, 2))?.update).toBe(2);
});

test("a crossing counts what the baseline had cost until its best, and what its whole run did", () => {
  // The baseline is best, 2.5, after 4 rounds of 64: 256 queries. The method is above at its 4th update of 8: 32.
  const found = crossing(curve(8, 1, 2, 3, 4), curve(64, 1, 2, 2.5, 2.2));
  expect(found?.baseline.best.queries).toBe(256);
  expect(found?.method?.update).toBe(4);
  // The whole run went on to 6 rounds: 384 queries.
  expect(found?.queries).toEqual({ until_best: 8, whole_run: 12 });
  expect(found?.unet_calls).toEqual({ until_best: 8, whole_run: 12 });
});

test("the way to a reward ends where it is first reached", () => {
  expect(until(curve(64, 1, 3, 2, 4), 2.5)?.map(({ reward }) => reward)).toEqual([1, 3]);
  expect(until(curve(64, 1, 3), 3.5)).toBeUndefined();
});

test("where the two begin at different rewards, as large a gain must be reached as well", () => {
  // The baseline gains 1 from 0.5; from 1 that is 2, though its best is 1.5.
  expect(crossing(curve(8, 1, 1.6, 2.1), curve(64, 0.5, 1.5))?.reward).toBe(2);
  expect(crossing(curve(8, 1, 1.6, 2.1), curve(64, 0.5, 1.5))?.method?.update).toBe(4);
});

test("what is never reached has no factor", () => {
  const found = crossing(curve(8, 1, 1.1), curve(64, 1, 2));
  expect(found).toMatchObject({ reward: 2, method: null, queries: null });
  // A baseline that learnt nothing is nothing to compare with.
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
