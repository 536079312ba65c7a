import { describe, expect, test } from "vitest";
import { settingsFrom } from "../../config/load.js";
import type { EvaluationRecord } from "../record/samples.js";
import { fellSince, overOptimisation } from "./over-optimisation.js";

const settings = await settingsFrom({
  evaluation: { held_out: "clip", diversity: "models/rewards/clip", seeds_per_prompt: 2 },
});

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Evaluations at every 10th step: the reward, the held-out rewards of the images, and the diversity. */
function run(...evaluations: [reward: number, heldOut: number[], diversity: number][]): EvaluationRecord[] {
  return evaluations.map(([reward, heldOut, diversity], i) => ({
    step: 10 * i,
    rewards: [reward],
    mean: reward,
    std: 0,
    heldOut: { rewards: heldOut, mean: mean(heldOut), std: 0 },
    diversity: { distances: [diversity], mean: diversity },
  }));
}

const detect = (...evaluations: Parameters<typeof run>) => overOptimisation(run(...evaluations), settings);

describe("a run's over-optimisation", () => {
  test("begins at the peak of the held-out reward if that falls by more than its noise while the reward rises", () => {
    const { step, text } = detect(
      [5, [1, 2, 3], 0.4],
      [6, [2, 3, 4], 0.4],
      [7, [1, 2.1, 3], 0.4],
      [8, [0, 1, 2.2], 0.4],
    );
    expect(step).toBe(10);
    expect(text).toBe(
      "The run began to over-optimise after step 10: the held-out clip reward was highest there, 3.00, and fell to 1.07 by " +
        "step 30 (by more than its noise from step 20 on), while the evaluation's aesthetic reward rose from 6.00 to 8.00.",
    );
  });

  test("is not reported if the fall is within the noise of the images", () => {
    // The mean falls by 0.1, but single images change by up to 3 in both directions.
    const { step, text } = detect([5, [1, 2, 3], 0.4], [6, [2, 3, 4], 0.4], [7, [5, 0, 3.7], 0.4]);
    expect(step).toBeUndefined();
    expect(text).toBe(
      "No sign of over-optimisation: the held-out clip reward ended at 2.90, within its noise of its peak, 3.00 at step 10; " +
        "the diversity of the images is 100 % of the base model's.",
    );
  });

  test("is not reported if the reward falls as well", () => {
    const { step, text } = detect([5, [1, 2, 3], 0.4], [6, [2, 3, 4], 0.4], [4, [0, 1.1, 2], 0.4]);
    expect(step).toBeUndefined();
    expect(text).toContain("from its peak, 3.00 at step 10, but the evaluation's aesthetic reward did not rise either");
  });

  test("begins where the images of a prompt become alike", () => {
    const { step, text } = detect([5, [1, 2], 0.4], [6, [2, 3], 0.3], [7, [3, 4], 0.1]);
    expect(step).toBe(20);
    expect(text).toContain("with a diversity of 0.100, 25 % of the base model's 0.400");
  });

  test("cannot be detected if only the reward is measured", async () => {
    const { text } = overOptimisation(run([5, [1], 1], [6, [1], 1]), await settingsFrom({}));
    expect(text).toContain("Set evaluation.held_out or evaluation.diversity");
  });

  test("is measured by the change of each image", () => {
    const record = (rewards: number[]) => run([0, rewards, 0])[0] as EvaluationRecord;
    // The rewards differ widely, but each one falls by about 0.1.
    expect(fellSince(record([0, 10, 20]), record([-0.1, 9.89, 19.91]))).toBe(true);
    expect(fellSince(record([0, 10, 20]), record([20, 0, 9]))).toBe(false);
    expect(fellSince(record([1]), record([0]))).toBe(false);
  });
});
