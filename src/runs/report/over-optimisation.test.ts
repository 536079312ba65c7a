import { describe, expect, test } from "vitest";
import { settingsFrom } from "../../config/load.js";
import type { EvaluationRecord } from "../record/samples.js";
import { fellSince, overOptimisation } from "./over-optimisation.js";

const settings = await settingsFrom({
  evaluation: { held_out: "clip", diversity: "models/rewards/clip", seeds_per_prompt: 2 },
});

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** An evaluation every 10 steps: its reward, the held-out rewards of its pictures and its diversity. */
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

const judge = (...evaluations: Parameters<typeof run>) => overOptimisation(run(...evaluations), settings);

describe("a run's over-optimisation", () => {
  test("begins at the held-out reward's peak, where it falls by more than its noise while the reward rises", () => {
    const { step, text } = judge(
      [5, [1, 2, 3], 0.4],
      [6, [2, 3, 4], 0.4],
      [7, [1, 2.1, 3], 0.4],
      [8, [0, 1, 2.2], 0.4],
    );
    expect(step).toBe(10);
    expect(text).toBe(
      "The run began to over-optimise after step 10: the held-out clip reward was highest there, 3.00, and fell to 1.07 by " +
        "step 30 (by more than its noise from step 20 on), while the reward went from 6.00 to 8.00.",
    );
  });

  test("is not claimed where the fall is within the noise of its pictures", () => {
    // The mean falls by 0.1, but single pictures change by 3 either way.
    const { step, text } = judge([5, [1, 2, 3], 0.4], [6, [2, 3, 4], 0.4], [7, [5, 0, 3.7], 0.4]);
    expect(step).toBeUndefined();
    expect(text).toBe(
      "No sign of over-optimisation: the held-out clip reward, 2.90 at the end, is within its noise of its highest, 3.00 at " +
        "step 10; the diversity of the pictures is 100 % of the base model's.",
    );
  });

  test("is not what it is called where the reward falls as well", () => {
    const { step, text } = judge([5, [1, 2, 3], 0.4], [6, [2, 3, 4], 0.4], [4, [0, 1.1, 2], 0.4]);
    expect(step).toBeUndefined();
    expect(text).toContain("is past its highest, 3.00 at step 10, but so is the reward itself");
  });

  test("begins where the pictures of a prompt become alike", () => {
    const { step, text } = judge([5, [1, 2], 0.4], [6, [2, 3], 0.3], [7, [3, 4], 0.1]);
    expect(step).toBe(20);
    expect(text).toContain("with a diversity of 0.100, 25 % of the base model's 0.400");
  });

  test("cannot be told where nothing but the reward is watched", async () => {
    const { text } = overOptimisation(run([5, [1], 1], [6, [1], 1]), await settingsFrom({}));
    expect(text).toContain("cannot be told from the reward alone");
  });

  test("is judged by the same pictures' own changes", () => {
    const record = (rewards: number[]) => run([0, rewards, 0])[0] as EvaluationRecord;
    // Far apart from each other, but each lower by about 0.1.
    expect(fellSince(record([0, 10, 20]), record([-0.1, 9.89, 19.91]))).toBe(true);
    expect(fellSince(record([0, 10, 20]), record([20, 0, 9]))).toBe(false);
    expect(fellSince(record([1]), record([0]))).toBe(false);
  });
});
