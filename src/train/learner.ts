/** The compiled side of training: from pictures to sample to the gradient of what learns. */
import { forward, type Trajectory } from "../diffusion/trajectory.js";
import type { Reward } from "../rewards/index.js";
import type { Runtime } from "../runtime/runtime.js";
import { InputError } from "../tensor/errors.js";
import { sizeOf } from "../tensor/shape.js";
import type { Estimator } from "./estimators/estimator.js";
import { type TrainingGraphs, trainingGraphs } from "./graphs.js";
import { joinParts, LatentJudge, type PartRewards } from "./judge.js";
import type { LearnedLayout } from "./learned.js";
import { HalfOverflow } from "./loss-scale.js";
import { type MemoryPlan, memoryOf } from "./memory.js";
import type { Pipeline } from "./pipeline.js";
import type { Precision } from "./precision.js";
import { Sampler, stack } from "./sampler.js";
import type { TrainingSample } from "./samples.js";
import type { Settings } from "./settings.js";
import { UnetBackward } from "./unet-backward.js";
import { type Walk, walksOf } from "./walks.js";

/** What one update saw. */
export interface Experience {
  /** dL/d parameters, the loss being the mean over all samples. */
  readonly gradient: Float64Array;
  /** Halves could not hold the gradient, which is of no use then. */
  readonly overflowed: boolean;
  readonly loss: number;
  /** Of each sample. */
  readonly rewards: readonly number[];
  /** What the parts of a combination made of them. */
  readonly parts?: PartRewards | undefined;
}

export class Learner {
  private constructor(
    readonly sampler: Sampler,
    readonly layout: LearnedLayout,
    private readonly estimator: Estimator,
    private readonly reward: Reward,
    private readonly backward: UnetBackward,
    private readonly judge: LatentJudge,
  ) {}

  /** `memory` says which U-Net calls keep their residuals (`memory.ts`). */
  static async compile(
    runtime: Runtime,
    pipeline: Pipeline,
    reward: Reward,
    estimator: Estimator,
    layout: LearnedLayout,
    settings: Settings,
    precision: Precision = "float32",
    memory: MemoryPlan = memoryOf(settings, pipeline, reward, layout, estimator, precision),
    graphs: TrainingGraphs = trainingGraphs(settings, pipeline, reward, layout, estimator, precision),
  ): Promise<Learner> {
    const { sampling, batch, prompts } = settings;
    const sampler = await Sampler.compile(runtime, pipeline, sampling, {
      batch: batch.per_device,
      layout,
      negativePrompt: prompts.negative,
      precision,
    });
    const backward = await UnetBackward.compile(runtime, sampler, layout, graphs, memory);
    const judge = await LatentJudge.compile(runtime, pipeline, reward, graphs.judge, settings);
    return new Learner(sampler, layout, estimator, reward, backward, judge);
  }

  /**
   * Samples pictures with the parameters as they are, rewards them and walks back to the parameters. `scale`: of what goes
   * back through the U-Net, where it computes in halves.
   */
  async learn(samples: readonly TrainingSample[], parameters: Float32Array, scale?: number): Promise<Experience> {
    const gradient = new Float64Array(this.layout.size);
    const rewards: number[] = [];
    const losses: number[] = [];
    let overflowed = false;
    const parts: (PartRewards | undefined)[] = [];
    for (const walk of walksOf(samples, this.sampler.batch)) {
      const seen = await this.thereAndBack(walk, parameters, overflowed ? null : gradient, scale);
      rewards.push(...seen.rewards);
      losses.push(...seen.losses);
      overflowed ||= seen.overflowed;
      parts.push(seen.parts);
    }
    if (!overflowed) requireFinite(gradient, this.layout, "the gradient");
    const loss = losses.reduce((sum, value) => sum + value / samples.length, 0);
    return { gradient, overflowed, rewards, parts: joinParts(parts), loss };
  }

  async release(): Promise<void> {
    await this.sampler.release();
    await this.backward.release();
    await this.judge.release();
  }

  /** `gradient` null: only there, for what an update that is to be skipped tells of its pictures. */
  private async thereAndBack(
    walk: Walk,
    parameters: Float32Array,
    gradient: Float64Array | null,
    scale: number | undefined,
  ) {
    const { sampler, estimator } = this;
    const { steps } = sampler;
    const pictures = walk.flat();
    const pool = new Pool(pictures.length, sampler);
    const rewards: number[] = [];
    const losses: number[] = [];
    let overflowed = false;
    const parts: (PartRewards | undefined)[] = [];
    const back = this.backward.begin(walk, parameters, scale);
    try {
      for (const [n, batch] of walk.entries()) {
        const noises = batch.map((sample) => sample.noise());
        const prompts = batch.map(({ prompt }) => prompt);

        // x_T … x_0, keeping x_t of each step
        const predict = back.predict(n, await sampler.condition(prompts, parameters));
        const initial = stack(noises.map(({ initial }) => initial));
        const trajectory = await forward(steps, { predict }, initial, (step) =>
          stack(noises.map((noise) => noise.step(step))),
        );
        // r(decode(x_0)), the losses and dL/dx_0
        const judged = await this.judgeLatents(trajectory.final, batch);
        pool.add(trajectory, judged.dLatents);
        rewards.push(...judged.rewards);
        losses.push(...judged.losses);
        parts.push(judged.parts);
      }
      // dL/d parameters
      const chain = { steps, vjp: back.vjp, trajectory: pool.trajectory };
      const keep = pictures.map(({ mask }) => mask);
      if (gradient) await estimator.accumulate(chain, pool.dFinal, keep, gradient);
    } catch (error) {
      if (!(error instanceof HalfOverflow)) throw error;
      overflowed = true;
    } finally {
      await back.release();
    }
    return { rewards, losses, overflowed, parts: joinParts(parts) };
  }

  private async judgeLatents(latents: Float32Array, batch: readonly TrainingSample[]) {
    const prompts = batch.map(({ prompt }) => prompt);
    const judged = await this.judge.judge(this.sampler.place(latents, 0).latents, prompts);
    const each = latents.length / batch.length;
    for (const [i, { prompt, epoch, index }] of batch.entries()) {
      const row = (values: Float32Array) => values.subarray(i * each, (i + 1) * each);
      const fault = !row(latents).every(Number.isFinite)
        ? "the denoised latents are not finite"
        : !Number.isFinite(judged.rewards[i])
          ? `the reward ${this.reward.name} is ${judged.rewards[i]}`
          : !row(judged.dLatents).every(Number.isFinite)
            ? `the gradient of the reward ${this.reward.name} is not finite`
            : undefined;
      if (fault) throw new InputError(`${fault} for "${prompt}" (sample ${index} of epoch ${epoch})`);
    }
    return judged;
  }
}

/** `what`: what the values are to the tensors that learn, for the message. */
export function requireFinite(values: Float32Array | Float64Array, layout: LearnedLayout, what: string): void {
  const at = values.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return;
  const entry = layout.entries.find(({ offset, shape }) => at < offset + sizeOf(shape));
  throw new InputError(`${what} of ${entry?.name} is ${values[at]}`);
}

/** The trajectories of a walk's micro-batches as one, for the way back. */
class Pool {
  readonly trajectory: Trajectory;
  readonly dFinal: Float32Array;
  private filled = 0;

  constructor(pictures: number, { steps, latentElements }: Sampler) {
    const size = pictures * latentElements;
    this.trajectory = { latents: steps.map(() => new Float32Array(size)), final: new Float32Array(size) };
    this.dFinal = new Float32Array(size);
  }

  add({ latents, final }: Trajectory, dFinal: Float32Array): void {
    for (const [step, x] of latents.entries()) this.trajectory.latents[step]?.set(x, this.filled);
    this.trajectory.final.set(final, this.filled);
    this.dFinal.set(dFinal, this.filled);
    this.filled += final.length;
  }
}
