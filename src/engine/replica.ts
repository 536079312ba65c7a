/** One replica: from samples to a gradient, by an estimator on an engine. */
import { stack, type Trajectory } from "../diffusion/trajectory.js";
import type { DirectEstimator, RolloutEstimator, TrainingSample } from "../estimators/index.js";
import { joinParts, type PartRewards } from "../rewards/index.js";
import { EngineContext } from "./context.js";
import type { Engine } from "./engine.js";
import {
  addCosts,
  type Cost,
  type GradientRequest,
  type GradientResult,
  NO_COST,
  type ScoredSamples,
} from "./gradient.js";
import { type Group, groupSamples } from "./groups.js";
import { Float16Overflow } from "./loss-scale.js";
import { inBatches, pick } from "./samples.js";
import type { SampledBatch, StoredBatch, StoredTrajectory, Workers } from "./workers.js";

export class Replica implements Workers {
  constructor(
    private readonly engine: Engine,
    /** Shown in messages. */
    private readonly rewardName: string,
  ) {}

  async gradient(
    estimator: DirectEstimator,
    samples: readonly TrainingSample[],
    request: GradientRequest,
  ): Promise<GradientResult & ScoredSamples> {
    const sum = new GradientSum(this.engine.parameterCount, request);
    const rewards: number[] = [];
    const parts: (PartRewards | undefined)[] = [];
    for (const group of groupSamples(samples, this.engine.batch)) {
      const context = this.context(group, sum);
      await sum.add(context, async () => {
        await estimator.addGradient(context);
        return context.losses;
      });
      rewards.push(...context.rewards);
      parts.push(context.parts);
    }
    return { ...sum.result, rewards, parts: joinParts(parts) };
  }

  async sample(samples: readonly TrainingSample[], request: GradientRequest): Promise<SampledBatch> {
    const sum = new GradientSum(0, request);
    const rewards: number[] = [];
    const parts: (PartRewards | undefined)[] = [];
    const trajectories: StoredTrajectory[] = [];
    for (const batch of inBatches(samples, this.engine.batch)) {
      const context = this.context([batch], sum);
      const { latents, final } = await context.sample({ outputs: false });
      await context.score(final);
      const row = (all: Float32Array, i: number) =>
        all.slice(i * context.latentElements, (i + 1) * context.latentElements);
      trajectories.push(...batch.map((sample, i) => ({ sample, latents: [...latents, final].map((x) => row(x, i)) })));
      rewards.push(...context.rewards);
      parts.push(context.parts);
      sum.count(context.cost);
    }
    return { trajectories, rewards, parts: joinParts(parts), cost: sum.result.cost };
  }

  async gradientFromTrajectories(
    estimator: RolloutEstimator,
    { trajectories, weights, update }: StoredBatch,
    request: GradientRequest,
  ): Promise<GradientResult> {
    const sum = new GradientSum(this.engine.parameterCount, request);
    for (const places of inBatches([...trajectories.keys()], this.engine.batch)) {
      const some = pick(trajectories, places);
      const context = this.context([some.map(({ sample }) => sample)], sum);
      const batch = { trajectory: joinTrajectories(some), weights: pick(weights, places), update };
      await sum.add(context, () => estimator.addGradient(context, batch));
    }
    return sum.result;
  }

  private context(group: Group, { request, gradient, overflowed }: GradientSum): EngineContext {
    return new EngineContext(this.engine, { group, request, gradient, overflowed, rewardName: this.rewardName });
  }
}

function joinTrajectories(stored: readonly StoredTrajectory[]): Trajectory {
  const steps = (stored[0] as StoredTrajectory).latents.length;
  const latents = Array.from({ length: steps }, (_, step) =>
    stack(stored.map((each) => each.latents[step] as Float32Array)),
  );
  const final = latents.pop() as Float32Array;
  return { latents, final };
}

/** Accumulates the groups of an optimizer update. */
class GradientSum {
  readonly gradient: Float64Array;
  overflowed = false;
  private loss = 0;
  private kl = 0;
  private cost: Cost = NO_COST;

  constructor(
    parameterCount: number,
    readonly request: GradientRequest,
  ) {
    this.gradient = new Float64Array(parameterCount);
  }

  /** `work` adds the gradient, and returns the loss of each sample. */
  async add(context: EngineContext, work: () => Promise<readonly number[]>): Promise<void> {
    const { globalBatchSize, klWeight } = this.request;
    try {
      const losses = await work();
      for (const loss of losses) this.loss += loss / globalBatchSize;
    } catch (error) {
      if (!(error instanceof Float16Overflow)) throw error;
      this.overflowed = true;
      // A rollout estimator was interrupted before it returned its losses. They are left out.
      for (const loss of context.losses) this.loss += loss / globalBatchSize;
    } finally {
      await context.release();
    }
    this.kl += context.divergence / globalBatchSize;
    if (klWeight !== undefined) this.loss += (klWeight * context.divergence) / globalBatchSize;
    this.count(context.cost);
  }

  count(cost: Cost): void {
    this.cost = addCosts([this.cost, cost]);
  }

  get result(): GradientResult {
    const { gradient, overflowed, loss, cost } = this;
    return { gradient, overflowed, loss, cost, ...(this.request.klWeight !== undefined && { kl: this.kl }) };
  }
}
