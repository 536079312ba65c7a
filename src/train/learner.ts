/** The compiled side of training: from pictures to sample to the adapter's gradient. */
import type { Denoiser, Trajectory } from "../diffusion/trajectory.js";
import type { LoraLayout } from "../nn/lora.js";
import type { Reward } from "../rewards/index.js";
import type { Program, Runtime } from "../runtime/runtime.js";
import { InputError } from "../tensor/errors.js";
import { float32, type HostTensor, toFloat32 } from "../tensor/host.js";
import { sizeOf } from "../tensor/shape.js";
import { merge } from "../weights/source.js";
import type { Estimator } from "./estimators/estimator.js";
import { denoiseVjpGraph, rewardGraph } from "./graphs.js";
import type { Pipeline } from "./pipeline.js";
import { Sampler, stack } from "./sampler.js";
import { inBatches, type TrainingSample } from "./samples.js";
import type { Settings } from "./settings.js";

/** What one update saw. */
export interface Experience {
  /** dL/d adapter, the loss being the mean over all samples. */
  readonly gradient: Float64Array;
  readonly loss: number;
  /** Of each sample. */
  readonly rewards: readonly number[];
}

export class Learner {
  private constructor(
    readonly sampler: Sampler,
    readonly layout: LoraLayout,
    private readonly estimator: Estimator,
    private readonly reward: Reward,
    private readonly backward: Program,
    private readonly judge: Program,
  ) {}

  static async compile(
    runtime: Runtime,
    pipeline: Pipeline,
    reward: Reward,
    estimator: Estimator,
    layout: LoraLayout,
    { sampling, batch: { per_device: batch, total: samples }, prompts, loss }: Settings,
  ): Promise<Learner> {
    const sampler = await Sampler.compile(runtime, pipeline, sampling, {
      batch,
      layout,
      negativePrompt: prompts.negative,
    });
    const shape = { batch, size: sampler.size, guidanceScale: sampling.guidance_scale };
    const wantsDx = estimator.needsDx(sampling.steps);
    const backward = await runtime.compile(denoiseVjpGraph(pipeline, layout, shape, wantsDx), pipeline.weights);
    const judged = rewardGraph(pipeline, reward, loss, { batch, size: sampler.size, samples });
    const judge = await runtime.compile(judged, merge(pipeline.weights, reward.weights));
    return new Learner(sampler, layout, estimator, reward, backward, judge);
  }

  /** Samples pictures with the adapter, rewards them and walks back to the adapter. */
  async learn(samples: readonly TrainingSample[], lora: Float32Array): Promise<Experience> {
    const { sampler, estimator } = this;
    const pool = new Pool(samples.length, sampler);
    const rewards: number[] = [];
    let loss = 0;
    for (const batch of inBatches(samples, sampler.batch)) {
      const noises = batch.map((sample) => sample.noise());
      const prompts = batch.map(({ prompt }) => prompt);

      // x_T … x_0, keeping x_t of each step
      const trajectory = await sampler.sample(
        await sampler.condition(prompts, lora),
        stack(noises.map(({ initial }) => initial)),
        (step) => stack(noises.map((noise) => noise.step(step))),
      );
      // r(decode(x_0)), the losses and dL/dx_0
      const judged = await this.judgeLatents(trajectory.final, batch);
      pool.add(trajectory, judged.dLatents);
      rewards.push(...judged.rewards);
      for (const value of judged.losses) loss += value / samples.length;
    }

    // dL/d adapter
    const gradient = new Float64Array(this.layout.size);
    const keep = samples.map(({ mask }) => mask);
    const chain = { steps: sampler.steps, vjp: this.vjp(samples, lora), trajectory: pool.trajectory };
    await estimator.accumulate(chain, pool.dFinal, keep, gradient);
    requireFinite(gradient, this.layout, "the gradient");
    return { gradient, loss, rewards };
  }

  async release(): Promise<void> {
    await this.sampler.release();
    await this.backward.release();
    await this.judge.release();
  }

  /** The U-Net's vector-Jacobian product for any of the pictures, in as many calls as the batch size makes of them. */
  private vjp(samples: readonly TrainingSample[], lora: Float32Array): Denoiser["vjp"] {
    const { sampler } = this;
    const { batch, latentElements: size } = sampler;
    return async ({ step, pictures, x, upstream }) => {
      const dParameters = new Float64Array(this.layout.size);
      const dx = new Float32Array(x.length);
      for (const [n, some] of inBatches(pictures, batch).entries()) {
        const start = n * batch * size;
        // Where the last batch is not full, its first picture stands in, with no gradient to bring back.
        const full = Array.from({ length: batch }, (_, i) => some[i] ?? (some[0] as number));
        const prompts = full.map((picture) => (samples[picture] as TrainingSample).prompt);
        const place = sampler.place(filled(x.subarray(start), batch * size), step);
        const results = await this.backward.run({
          ...(await sampler.condition(prompts, lora)),
          ...place,
          upstream: float32(filled(upstream.subarray(start), batch * size), place.latents.shape),
        });
        for (const [j, value] of toFloat32(results.dLora as HostTensor).entries()) {
          dParameters[j] = (dParameters[j] as number) + value;
        }
        if (results.dLatents) dx.set(toFloat32(results.dLatents).subarray(0, some.length * size), start);
      }
      return { dParameters, dx };
    };
  }

  private async judgeLatents(latents: Float32Array, batch: readonly TrainingSample[]) {
    const prompts = batch.map(({ prompt }) => prompt);
    const feeds = { ...this.reward.feeds(prompts), latents: this.sampler.place(latents, 0).latents };
    const { rewards, losses, dLatents } = await this.judge.run(feeds);
    const judged = {
      rewards: toFloat32(rewards as HostTensor),
      losses: toFloat32(losses as HostTensor),
      dLatents: toFloat32(dLatents as HostTensor),
    };
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

/** `what`: what the values are to the adapter's tensors, for the message. */
export function requireFinite(values: Float32Array | Float64Array, layout: LoraLayout, what: string): void {
  const at = values.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return;
  const entry = layout.entries.find(({ offset, shape }) => at < offset + sizeOf(shape));
  throw new InputError(`${what} of ${entry?.name} is ${values[at]}`);
}

/** The trajectories of an update's micro-batches as one, for the way back. */
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

/** The first `length` values, with zeros after them where there are fewer. */
function filled(values: Float32Array, length: number): Float32Array {
  if (values.length >= length) return values.slice(0, length);
  const out = new Float32Array(length);
  out.set(values);
  return out;
}
