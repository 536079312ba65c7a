/** The work of a training step that can be shared: by the replicas of a process, and by the ranks of a run. */
import type { DirectEstimator, RolloutEstimator, TrainingSample } from "../estimators/index.js";
import { joinParts } from "../rewards/index.js";
import { addCosts, type Cost, type GradientRequest, type GradientResult, type ScoredSamples } from "./gradient.js";
import { pick } from "./samples.js";

/** One replica, all replicas of a process, all ranks of a run, or a count of their calls. */
export interface Workers {
  /** Generates and scores samples, and computes the gradient of one optimizer update. */
  gradient(
    estimator: DirectEstimator,
    samples: readonly TrainingSample[],
    request: GradientRequest,
  ): Promise<GradientResult & ScoredSamples>;
  /** Generates and scores samples, and stores their trajectories. */
  sample(samples: readonly TrainingSample[], request: GradientRequest): Promise<SampledBatch>;
  /** Computes the gradient of one optimizer update from stored trajectories. */
  gradientFromTrajectories(
    estimator: RolloutEstimator,
    batch: StoredBatch,
    request: GradientRequest,
  ): Promise<GradientResult>;
}

/** A sample with its latents: x_T … x_0. */
export interface StoredTrajectory {
  readonly sample: TrainingSample;
  readonly latents: readonly Float32Array[];
}

export interface SampledBatch extends ScoredSamples {
  readonly trajectories: readonly StoredTrajectory[];
  readonly cost: Cost;
}

export interface StoredBatch {
  readonly trajectories: readonly StoredTrajectory[];
  /** One per trajectory. */
  readonly weights: readonly number[];
  /** Index of the optimizer update within the training step. */
  readonly update: number;
}

/** A gradient result without the gradient: small enough to be gathered from all ranks. */
export type GradientSummary = Omit<GradientResult, "gradient">;

/** The summary of workers that share an update. */
export function addSummaries(all: readonly GradientSummary[]): GradientSummary {
  return {
    overflowed: all.some(({ overflowed }) => overflowed),
    loss: all.reduce((sum, { loss }) => sum + loss, 0),
    ...(all[0]?.kl !== undefined && { kl: all.reduce((sum, { kl }) => sum + (kl ?? 0), 0) }),
    cost: addCosts(all.map(({ cost }) => cost)),
  };
}

export function joinSamples(all: readonly ScoredSamples[]): ScoredSamples {
  return { rewards: all.flatMap(({ rewards }) => rewards), parts: joinParts(all.map(({ parts }) => parts)) };
}

/** The results of workers that share a rollout, without its trajectories. */
export function joinRollouts(all: readonly Omit<SampledBatch, "trajectories">[]): Omit<SampledBatch, "trajectories"> {
  return { ...joinSamples(all), cost: addCosts(all.map(({ cost }) => cost)) };
}

/** The part of a batch at some places. */
export function partOf({ trajectories, weights, update }: StoredBatch, places: readonly number[]): StoredBatch {
  return { trajectories: pick(trajectories, places), weights: pick(weights, places), update };
}
