/** What a lane's programs do with one micro-batch of `batch` pictures, whatever the estimator. */

import type { Settings } from "../config/settings.js";
import type { DdimStep } from "../diffusion/ddim.js";
import type { Estimator } from "../estimators/estimator.js";
import type { LearnedLayout } from "../pipeline/parameters.js";
import type { Pipeline } from "../pipeline/pipeline.js";
import type { Precision } from "../pipeline/precision.js";
import { Sampler, type Told } from "../pipeline/sampler.js";
import type { Reward } from "../rewards/index.js";
import type { JudgedLatents, JudgedPictures } from "../rewards/scores.js";
import type { Kept, Runtime } from "../runtime/runtime.js";
import { LatentJudge } from "../scoring/scorer.js";
import { float32, type HostTensor, toFloat32 } from "../tensor/host.js";
import { type TrainingGraphs, trainingGraphs } from "./graphs.js";
import { type MemoryPlan, memoryOf } from "./memory.js";
import { UnetBackward } from "./unet-backward.js";

export interface Engine {
  readonly steps: readonly DdimStep[];
  readonly batch: number;
  readonly latentElements: number;
  /** Numbers that learn. */
  readonly learned: number;
  /** U-Net calls whose residuals may be held at once. */
  readonly keptAtOnce: number;
  /** What the U-Net is told at every step: a prompt for each picture of the micro-batch, and what learns. */
  condition(prompts: readonly string[], parameters: Float32Array): Promise<Told>;
  /** The U-Net at latents of a step; with `keep`, also what the way back can begin from. */
  forward(told: Told, x: Float32Array, step: number, keep: boolean): Promise<{ output: Float32Array; kept?: Kept }>;
  /** Its vector-Jacobian product, from what was kept or from the start. */
  backward(told: Told, x: Float32Array, step: number, upstream: Float32Array, kept?: Kept): Promise<Products>;
  /** Reward, loss and dL/dx_0. */
  judge(latents: Float32Array, prompts: readonly string[]): Promise<JudgedLatents>;
  /** Reward and loss. */
  reward(latents: Float32Array, prompts: readonly string[]): Promise<JudgedPictures>;
}

export interface Products {
  /** Summed over the pictures. */
  readonly dParameters: Float32Array;
  /** Where the program has it. */
  readonly dx?: Float32Array | undefined;
}

export interface EngineOptions {
  readonly pipeline: Pipeline;
  readonly reward: Reward;
  readonly estimator: Estimator;
  readonly layout: LearnedLayout;
  /** Those of the lane. */
  readonly settings: Settings;
  readonly precision?: Precision;
  /** Which U-Net calls keep their residuals (`memory.ts`). */
  readonly memory?: MemoryPlan;
  readonly graphs?: TrainingGraphs;
}

/** The programs themselves. */
export class CompiledEngine implements Engine {
  private constructor(
    readonly sampler: Sampler,
    private readonly unet: UnetBackward,
    private readonly latentJudge: LatentJudge,
    readonly keptAtOnce: number,
    readonly learned: number,
  ) {}

  static async compile(runtime: Runtime, options: EngineOptions): Promise<CompiledEngine> {
    const { pipeline, reward, estimator, layout, settings, precision = "float32" } = options;
    const { memory = memoryOf(settings, pipeline, reward, layout, estimator, precision) } = options;
    const { graphs = trainingGraphs(settings, pipeline, reward, layout, estimator, precision) } = options;
    const { sampling, batch, prompts } = settings;
    const sampler = await Sampler.compile(runtime, pipeline, sampling, {
      batch: batch.per_device,
      layout,
      negativePrompt: prompts.negative,
      precision,
    });
    const unet = await UnetBackward.compile(runtime, sampler, graphs, memory);
    const judge = await LatentJudge.compile(runtime, pipeline, reward, graphs.judge, settings);
    return new CompiledEngine(sampler, unet, judge, memory.keptAtOnce, layout.size);
  }

  get steps(): readonly DdimStep[] {
    return this.sampler.steps;
  }

  get batch(): number {
    return this.sampler.batch;
  }

  get latentElements(): number {
    return this.sampler.latentElements;
  }

  condition(prompts: readonly string[], parameters: Float32Array): Promise<Told> {
    return this.sampler.condition(prompts, parameters);
  }

  async forward(told: Told, x: Float32Array, step: number, keep: boolean) {
    if (!keep) return { output: await this.sampler.predict(told, x, step) };
    const { outputs, kept } = await this.unet.forwardKeeping({ ...told, ...this.sampler.place(x, step) });
    return { output: toFloat32(outputs.output as HostTensor), kept };
  }

  async backward(told: Told, x: Float32Array, step: number, upstream: Float32Array, kept?: Kept): Promise<Products> {
    const at = this.sampler.place(x, step);
    const feeds = { ...told, ...at, upstream: float32(upstream, at.latents.shape) };
    const { dParameters, dLatents } = await this.unet.backward(feeds, kept);
    return { dParameters: toFloat32(dParameters as HostTensor), dx: dLatents && toFloat32(dLatents) };
  }

  judge(latents: Float32Array, prompts: readonly string[]): Promise<JudgedLatents> {
    return this.latentJudge.judge(this.sampler.place(latents, 0).latents, prompts);
  }

  reward(latents: Float32Array, prompts: readonly string[]): Promise<JudgedPictures> {
    return this.latentJudge.reward(this.sampler.place(latents, 0).latents, prompts);
  }

  async release(): Promise<void> {
    await this.sampler.release();
    await this.unet.release();
    await this.latentJudge.release();
  }
}
