/** The evaluations of a run in the form that its early-stop rule takes, and the best checkpoint by that rule. */

import { join } from "node:path";
import type { EarlyStopSettings } from "../../config/index.js";
import { type EvaluationSummary, type StepMetrics, summaryOf, verdict } from "../../train/index.js";
import { runFiles, stepsIn } from "./layout.js";
import { readEvaluation } from "./samples.js";

/** Reads the evaluation of the base model (step 0) from its samples, and the others from the rows of metrics.jsonl. */
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

/** The best of the saved `steps` by the run's early-stop rule. */
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
