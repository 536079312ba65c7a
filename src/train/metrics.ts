/** The metrics of a step. */

import { type BatchSettings, stepsPerEpoch } from "../config/index.js";
import type { StepResult } from "../engine/index.js";
import { partMeans } from "../rewards/index.js";
import { type EvaluationResult, meanAndStd, monitorMetrics } from "../scoring/index.js";
import type { StepMetrics } from "./events.js";
import type { TrainingState } from "./state.js";

export interface StepRecord {
  readonly batch: BatchSettings;
  readonly result: StepResult;
  /** Gradient norms of the step's optimizer updates; null for a skipped one. */
  readonly gradNorms: readonly (number | null)[];
  /** Loss scale at the beginning of the step. */
  readonly lossScale: number | undefined;
  readonly seconds: number;
}

/** The row of a step that `state` has just completed. */
export function stepMetrics({ step, cost }: TrainingState, record: StepRecord): StepMetrics {
  const { batch, result, gradNorms, lossScale, seconds } = record;
  const norms = gradNorms.filter((norm) => norm !== null);
  return {
    step,
    epoch: Math.floor((step - 1) / stepsPerEpoch(batch)),
    samples: step * batch.total,
    loss: result.loss,
    reward_mean: meanAndStd(result.rewards).mean,
    reward_std: meanAndStd(result.rewards).std,
    reward_queries: cost.rewardQueries,
    unet_calls: cost.unetCalls,
    ...(result.kl !== undefined && { kl: result.kl }),
    grad_norm: norms.length === 0 ? null : meanAndStd(norms).mean,
    ...(lossScale !== undefined && { loss_scale: lossScale }),
    ...(norms.length < gradNorms.length && { skipped: true as const }),
    seconds,
    peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
    ...(result.parts && { rewards: partMeans(result.parts) }),
  };
}

/** The row of a step that evaluated. */
export function withEvaluation(metrics: StepMetrics, evaluation: EvaluationResult): StepMetrics {
  return {
    ...metrics,
    eval_reward_mean: evaluation.mean,
    eval_reward_std: evaluation.std,
    ...(evaluation.parts && { eval_rewards: partMeans(evaluation.parts) }),
    ...monitorMetrics(evaluation),
  };
}
