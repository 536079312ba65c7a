/**
 * One training step: its samples are generated and scored, and one or several optimizer updates are made from them. Decisions
 * that need all samples at once, such as an estimator's weights, are made here, above the workers that share the samples.
 */
import type { Estimator, TrainingSample } from "../estimators/index.js";
import { addCosts, type Cost, type GradientRequest, type GradientResult, type ScoredSamples } from "./gradient.js";
import { pick } from "./samples.js";
import type { Workers } from "./workers.js";

export interface StepOptions {
  readonly workers: Workers;
  readonly estimator: Estimator;
  readonly samples: readonly TrainingSample[];
  /** The estimator's state after the previous step. */
  readonly estimatorState: unknown;
  /** The request of the next optimizer update, with the parameters as they are by then. */
  readonly request: () => Omit<GradientRequest, "globalBatchSize">;
  /** Makes the optimizer update. */
  readonly update: (result: GradientResult) => Promise<void> | void;
}

export interface StepResult extends ScoredSamples {
  /** Mean over the optimizer updates. */
  readonly loss: number;
  readonly kl?: number | undefined;
  readonly cost: Cost;
  readonly estimatorState: unknown;
}

export async function trainingStep(options: StepOptions): Promise<StepResult> {
  const { workers, estimator, samples, estimatorState, request, update } = options;
  const globalBatchSize = samples.length;
  if (estimator.kind === "direct") {
    const result = await workers.gradient(estimator, samples, { ...request(), globalBatchSize });
    await update(result);
    const { rewards, parts, loss, kl, cost } = result;
    return { rewards, parts, loss, kl, cost, estimatorState: undefined };
  }
  const { trajectories, rewards, parts, cost } = await workers.sample(samples, { ...request(), globalBatchSize });
  const { weights, state } = estimator.weigh(
    samples.map(({ prompt }, i) => ({ prompt, reward: rewards[i] as number })),
    estimatorState,
  );
  const results: GradientResult[] = [];
  for (const [index, places] of estimator.minibatches(samples.length).entries()) {
    const batch = { trajectories: pick(trajectories, places), weights: pick(weights, places), update: index };
    const result = await workers.gradientFromTrajectories(estimator, batch, {
      ...request(),
      globalBatchSize: places.length,
    });
    await update(result);
    results.push({ ...result, gradient: NO_GRADIENT });
  }
  const mean = (value: (result: GradientResult) => number) =>
    results.reduce((sum, result) => sum + value(result) / results.length, 0);
  return {
    rewards,
    parts,
    loss: mean(({ loss }) => loss),
    ...(results.at(-1)?.kl !== undefined && { kl: mean(({ kl }) => kl ?? 0) }),
    cost: addCosts([cost, ...results.map(({ cost }) => cost)]),
    estimatorState: state,
  };
}

/** The gradient of an update is not needed after it. */
const NO_GRADIENT = new Float64Array(0);
