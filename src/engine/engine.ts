/** The operations of one replica on one micro-batch of `batch` samples, independent of the estimator. */

import type { DdimStep } from "../diffusion/ddim.js";
import { type ConditioningInputs, type PromptEncoder, Sampler } from "../pipeline/index.js";
import type { BatchGradients, BatchLosses } from "../rewards/index.js";
import type { Runtime, SavedOutputs } from "../runtime/runtime.js";
import { LatentScorer } from "../scoring/index.js";
import { float32, type HostTensor, toFloat32 } from "../tensor/host.js";
import type { TrainingGraphs } from "./graphs.js";
import type { TrainingSetup } from "./setup.js";
import { UnetVjp } from "./unet-vjp.js";

export interface Engine {
  readonly steps: readonly DdimStep[];
  /** Samples per call. */
  readonly batch: number;
  /** Numbers in the latents of one sample. */
  readonly latentElements: number;
  /** Number of trainable parameters. */
  readonly parameterCount: number;
  /** Number of U-Net calls whose residuals may be saved at the same time. */
  readonly maxSavedCalls: number;
  /** The U-Net's inputs that are the same at every step: one prompt per sample of the micro-batch, and the parameters. */
  condition(prompts: readonly string[], parameters: Float32Array): Promise<ConditioningInputs>;
  /** Calls the U-Net on latents at a step. With `save`, the residuals for its VJP stay in the runtime. */
  forward(conditioning: ConditioningInputs, x: Float32Array, step: number, save: boolean): Promise<ForwardResult>;
  /** The U-Net's vector-Jacobian product, from saved residuals or from a recomputed forward pass. */
  backward(conditioning: ConditioningInputs, call: BackwardCall): Promise<VjpResult>;
  /** Rewards, losses and dL/dx_0. */
  scoreWithGradient(latents: Float32Array, prompts: readonly string[]): Promise<BatchGradients>;
  /** Rewards and losses. */
  score(latents: Float32Array, prompts: readonly string[]): Promise<BatchLosses>;
}

export interface ForwardResult {
  readonly output: Float32Array;
  readonly residuals?: SavedOutputs | undefined;
}

export interface BackwardCall {
  readonly x: Float32Array;
  readonly step: number;
  /** dL/d output, same length as `x`. */
  readonly upstream: Float32Array;
  readonly residuals?: SavedOutputs | undefined;
}

export interface VjpResult {
  /** Summed over the micro-batch. */
  readonly dParameters: Float32Array;
  /** Present if the estimator `needsDx`. */
  readonly dx?: Float32Array | undefined;
}

export interface EngineOptions {
  /** Number of U-Net calls whose residuals may be saved at the same time. */
  readonly maxSavedCalls: number;
  /** A text encoder that several replicas share; compiled when left out. */
  readonly prompts?: Promise<PromptEncoder>;
}

/** The engine of a real run: programs of ONNX Runtime. */
export class CompiledEngine implements Engine {
  private constructor(
    private readonly programs: { readonly sampler: Sampler; readonly vjp: UnetVjp; readonly scorer: LatentScorer },
    readonly maxSavedCalls: number,
    readonly parameterCount: number,
  ) {}

  static async compile(
    runtime: Runtime,
    { settings, pipeline, reward, layout }: TrainingSetup,
    graphs: TrainingGraphs,
    { maxSavedCalls, prompts: encoder }: EngineOptions,
  ): Promise<CompiledEngine> {
    const { sampling, prompts, loss, batch } = settings;
    const options = { graphs: graphs.sampler, negativePrompt: prompts.negative, ...(encoder && { prompts: encoder }) };
    const [sampler, vjp, scorer] = await Promise.all([
      Sampler.compile(runtime, pipeline, sampling, options),
      UnetVjp.compile(runtime, pipeline.weights, graphs, maxSavedCalls),
      LatentScorer.compile(runtime, pipeline, reward, { graphs: graphs.scorer, loss, samples: batch.total }),
    ]);
    return new CompiledEngine({ sampler, vjp, scorer }, maxSavedCalls, layout.size);
  }

  get sampler(): Sampler {
    return this.programs.sampler;
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

  condition(prompts: readonly string[], parameters: Float32Array): Promise<ConditioningInputs> {
    return this.sampler.condition(prompts, parameters);
  }

  async forward(
    conditioning: ConditioningInputs,
    x: Float32Array,
    step: number,
    save: boolean,
  ): Promise<ForwardResult> {
    if (!save) return { output: await this.sampler.predict(conditioning, x, step) };
    const { outputs, kept } = await this.programs.vjp.forward({
      ...conditioning,
      ...this.sampler.latentInputs(x, step),
    });
    return { output: toFloat32(outputs.output as HostTensor), residuals: kept };
  }

  async backward(conditioning: ConditioningInputs, { x, step, upstream, residuals }: BackwardCall): Promise<VjpResult> {
    const inputs = this.sampler.latentInputs(x, step);
    const feeds = { ...conditioning, ...inputs, upstream: float32(upstream, inputs.latents.shape) };
    const { dParameters, dLatents } = await this.programs.vjp.backward(feeds, residuals);
    return { dParameters: toFloat32(dParameters as HostTensor), dx: dLatents && toFloat32(dLatents) };
  }

  scoreWithGradient(latents: Float32Array, prompts: readonly string[]): Promise<BatchGradients> {
    return this.programs.scorer.scoreWithGradient(this.sampler.latents(latents), prompts);
  }

  score(latents: Float32Array, prompts: readonly string[]): Promise<BatchLosses> {
    return this.programs.scorer.score(this.sampler.latents(latents), prompts);
  }

  async release(): Promise<void> {
    const { sampler, vjp, scorer } = this.programs;
    await sampler.release();
    await vjp.release();
    await scorer.release();
  }
}
