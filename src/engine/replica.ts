/** From pictures to sample to the gradient of what learns, by an estimator on a lane's programs. */

import type { Trajectory } from "../diffusion/trajectory.js";
import { stack } from "../diffusion/trajectory.js";
import { InputError } from "../errors/index.js";
import type { Lesson, RoundEstimator, UpdateEstimator } from "../estimators/estimator.js";
import type { TrainingSample } from "../estimators/sample.js";
import type { LearnedLayout } from "../pipeline/parameters.js";
import { joinParts, type PartRewards } from "../rewards/scores.js";
import { sizeOf } from "../tensor/shape.js";
import { type Cost, type Update, WalkToolbox } from "./context.js";
import type { Engine } from "./engine.js";
import { type Walk, walksOf } from "./groups.js";
import { HalfOverflow } from "./loss-scale.js";
import { inBatches, pick } from "./samples.js";

/** What one optimizer update is made from. */
export interface Learnt {
  /** dL/d parameters, the loss being the mean over all samples. */
  readonly gradient: Float64Array;
  /** Halves could not hold the gradient, which is of no use then. */
  readonly overflowed: boolean;
  /** Summed over these samples, and over all samples of the update the mean. */
  readonly loss: number;
  /** The same of the divergence from the base model, before it is weighed; undefined where there is no such pull. */
  readonly kl?: number | undefined;
  readonly cost: Cost;
}

/** What was seen of pictures. */
export interface Seen {
  /** Of each sample. */
  readonly rewards: readonly number[];
  /** What the parts of a combination made of them. */
  readonly parts?: PartRewards | undefined;
}

/** A picture that was sampled to be learnt from later. */
export interface Rollout {
  readonly sample: TrainingSample;
  /** x_T …, and last x_0. */
  readonly latents: readonly Float32Array[];
}

/** Pictures that were sampled to be learnt from, and what is known of them by then. */
export type Sampled = Seen & { readonly rollouts: readonly Rollout[]; readonly cost: Cost };

export class Learner {
  constructor(
    private readonly engine: Engine,
    private readonly rewardName: string,
  ) {}

  /** Samples pictures with the parameters as they are, rewards them and walks back to the parameters. */
  async learn(estimator: UpdateEstimator, samples: readonly TrainingSample[], update: Update): Promise<Learnt & Seen> {
    const sums = new Sums(this.engine.learned, update);
    const rewards: number[] = [];
    const parts: (PartRewards | undefined)[] = [];
    for (const walk of walksOf(samples, this.engine.batch)) {
      const tools = this.toolbox(walk, sums);
      await sums.add(tools, async () => {
        await estimator.learn(tools);
        return tools.losses;
      });
      rewards.push(...tools.rewards);
      parts.push(tools.parts);
    }
    return { ...sums.learnt, rewards, parts: joinParts(parts) };
  }

  /** Samples pictures with the parameters as they are and rewards them. */
  async sample(samples: readonly TrainingSample[], update: Update): Promise<Sampled> {
    const sums = new Sums(this.engine.learned, update);
    const rewards: number[] = [];
    const parts: (PartRewards | undefined)[] = [];
    const rollouts: Rollout[] = [];
    for (const batch of inBatches(samples, this.engine.batch)) {
      const tools = this.toolbox([batch], sums);
      const { latents, final } = await tools.sample({ outputs: false });
      await tools.reward(final);
      const row = (all: Float32Array, i: number) => all.slice(i * tools.size, (i + 1) * tools.size);
      rollouts.push(...batch.map((sample, i) => ({ sample, latents: [...latents, final].map((x) => row(x, i)) })));
      rewards.push(...tools.rewards);
      parts.push(tools.parts);
      sums.count(tools);
    }
    return { rollouts, rewards, parts: joinParts(parts), cost: sums.learnt.cost };
  }

  /** The gradient of pictures that were sampled before, each with what it counts for. */
  async relearn(
    estimator: RoundEstimator,
    rollouts: readonly Rollout[],
    { weights, update: number }: Omit<Lesson, "trajectory">,
    update: Update,
  ): Promise<Learnt> {
    const sums = new Sums(this.engine.learned, update);
    for (const places of inBatches([...rollouts.keys()], this.engine.batch)) {
      const some = pick(rollouts, places);
      const tools = this.toolbox([some.map(({ sample }) => sample)], sums);
      await sums.add(tools, () =>
        estimator.learn(tools, {
          trajectory: together(some),
          weights: pick(weights, places),
          update: number,
        }),
      );
    }
    return sums.learnt;
  }

  private toolbox(walk: Walk, { rest, gradient }: Sums): WalkToolbox {
    return new WalkToolbox(this.engine, walk, rest, this.rewardName, gradient);
  }
}

/** The chains of several pictures as one. */
function together(rollouts: readonly Rollout[]): Trajectory {
  const steps = (rollouts[0] as Rollout).latents.length;
  const latents = Array.from({ length: steps }, (_, step) =>
    stack(rollouts.map((rollout) => rollout.latents[step] as Float32Array)),
  );
  const final = latents.pop() as Float32Array;
  return { latents, final };
}

/** What the walks of an update add up to. */
class Sums {
  readonly gradient: Float64Array;
  private readonly cost: Cost = { unetCalls: 0, rewardQueries: 0 };
  private overflowed = false;
  private loss = 0;
  private kl = 0;

  constructor(
    size: number,
    private readonly update: Update,
  ) {
    this.gradient = new Float64Array(size);
  }

  /** The update for the walks that are still to come. */
  get rest(): Update {
    return this.overflowed ? { ...this.update, lost: true } : this.update;
  }

  /** `learn` gives the samples' losses. */
  async add(tools: WalkToolbox, learn: () => Promise<readonly number[]>): Promise<void> {
    const { total, kl } = this.update;
    try {
      const losses = await learn();
      for (const loss of losses) this.loss += loss / total;
    } catch (error) {
      if (!(error instanceof HalfOverflow)) throw error;
      this.overflowed = true;
      for (const loss of tools.losses) this.loss += loss / total;
    } finally {
      await tools.release();
    }
    this.kl += tools.divergence / total;
    if (kl !== undefined) this.loss += (kl * tools.divergence) / total;
    this.count(tools);
  }

  count({ cost }: WalkToolbox): void {
    this.cost.unetCalls += cost.unetCalls;
    this.cost.rewardQueries += cost.rewardQueries;
  }

  get learnt(): Learnt {
    const { gradient, overflowed, loss, cost } = this;
    return { gradient, overflowed, loss, cost, ...(this.update.kl !== undefined && { kl: this.kl }) };
  }
}

/** `what`: what the values are to the tensors that learn, for the message. */
export function requireFinite(values: Float32Array | Float64Array, layout: LearnedLayout, what: string): void {
  const at = values.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return;
  const entry = layout.entries.find(({ offset, shape }) => at < offset + sizeOf(shape));
  throw new InputError("not-finite", `${what} of ${entry?.name} is ${values[at]}`);
}
