/** The gradient of an optimizer update: what it is computed from, and its result. */
import type { PartRewards } from "../rewards/index.js";

/** One optimizer update, for which samples contribute a gradient. */
export interface GradientRequest {
  readonly parameters: Float32Array;
  /** Samples of this update over all replicas and ranks. */
  readonly globalBatchSize: number;
  /** Loss scale; float16 only. */
  readonly lossScale?: number | undefined;
  /** Parameters of the base model, if the run compares with it. */
  readonly baseParameters?: Float32Array | undefined;
  /** Weight of the KL penalty against the base model. */
  readonly klWeight?: number | undefined;
}

/** Work done, counted per sample: a micro-batch of 4 at one step is 4 U-Net calls. */
export interface Cost {
  /** U-Net calls: a forward call counts 1, a backward call 1, or 2 if it recomputes the forward pass. */
  readonly unetCalls: number;
  /** Images scored. */
  readonly rewardQueries: number;
}

export const NO_COST: Cost = { unetCalls: 0, rewardQueries: 0 };

export function addCosts(costs: readonly Cost[]): Cost {
  return {
    unetCalls: costs.reduce((sum, { unetCalls }) => sum + unetCalls, 0),
    rewardQueries: costs.reduce((sum, { rewardQueries }) => sum + rewardQueries, 0),
  };
}

export interface GradientResult {
  /** dL/d parameters, with L the mean loss over the global batch. */
  readonly gradient: Float64Array;
  /** True if float16 could not hold the gradient. The gradient is then of no use. */
  readonly overflowed: boolean;
  /** The share of these samples in the mean loss. */
  readonly loss: number;
  /** The same for the squared distance from the base model's predictions, unweighted; only with a KL penalty. */
  readonly kl?: number | undefined;
  readonly cost: Cost;
}

export interface ScoredSamples {
  /** One per sample. */
  readonly rewards: readonly number[];
  /** Only for a combination. */
  readonly parts?: PartRewards | undefined;
}
