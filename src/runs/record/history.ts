/** A run's evaluations as the rule of its early stop sees them, and what the rule says of them. */

import { join } from "node:path";
import type { EarlyStopSettings } from "../../config/index.js";
import { type EvaluationSummary, type StepMetrics, summaryOf, verdict } from "../../train/index.js";
import { runFiles, stepsIn } from "./layout.js";
import { readEvaluation } from "./samples.js";

/** Of each step from its row, of the model as it was from its pictures. */
export async function readHistory(run: string, rows: readonly StepMetrics[]): Promise<EvaluationSummary[]> {
  const [first] = await stepsIn(join(run, runFiles.samples));
  const base = first === 0 ? [summaryOf(0, await readEvaluation(run, 0))] : [];
  return [
    ...base,
    ...rows.flatMap(
      ({
        step,
        eval_reward_mean: reward,
        eval_held_out_mean: heldOut,
        eval_diversity: diversity,
      }): EvaluationSummary[] => (reward === undefined ? [] : [{ step, reward, heldOut, diversity }]),
    ),
  ];
}

/** Of the saved `steps`, the best by the run's rule. */
export function bestStep(
  steps: readonly number[],
  history: readonly EvaluationSummary[],
  rule: EarlyStopSettings | null,
): number | undefined {
  return verdict(
    history.filter(({ step }) => step === 0 || steps.includes(step)),
    rule,
  ).best;
}
