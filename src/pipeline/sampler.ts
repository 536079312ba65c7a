/** Pictures from prompts: the text encoder, the denoising chain and the VAE decoder, compiled for one batch size. */

import { annealed } from "../diffusion/annealing.js";
import { type DdimStep, ddimSteps } from "../diffusion/ddim.js";
import { isGuided } from "../diffusion/guidance.js";
import { forward, type StepNoise, type Trajectory } from "../diffusion/trajectory.js";
import type { Program, Runtime } from "../runtime/runtime.js";
import { float32, fromNumbers, type HostTensor, toFloat32 } from "../tensor/host.js";
import { decodeGraph, denoiseGraph, named, UNCONDITIONAL } from "./graphs.js";
import type { LearnedLayout } from "./parameters.js";
import { type LatentSize, latentSize, type Pipeline } from "./pipeline.js";
import { inPrecision, type Precision } from "./precision.js";
import { PromptEncoder } from "./prompt-encoder.js";

export interface SamplingOptions {
  readonly steps: number;
  readonly eta: number;
  readonly guidance_scale: number;
  /** Pixels; null is the model's own size. */
  readonly height: number | null;
  readonly width: number | null;
}

/** What the U-Net is told besides latents and timestep, the same at every step: prompts and the adapter. */
export type Told = Readonly<Record<string, HostTensor>>;

/** Annealed guidance (`annealing.ts`), from what a sampler predicts with these parameters. */
export interface Annealing {
  readonly base: Sampler;
  readonly parameters: Float32Array | undefined;
  readonly power: number;
}

export interface SamplerOptions {
  /** Pictures sampled at once. */
  readonly batch: number;
  /** Of what `condition` will be given. */
  readonly layout?: LearnedLayout | undefined;
  readonly negativePrompt?: string;
  /** Of the U-Net. */
  readonly precision?: Precision;
}

export class Sampler {
  private decoder: Promise<Program> | undefined;

  private constructor(
    private readonly runtime: Runtime,
    readonly pipeline: Pipeline,
    readonly steps: readonly DdimStep[],
    readonly size: LatentSize,
    readonly batch: number,
    private readonly prompts: PromptEncoder,
    private readonly denoiser: Program,
    /** Undefined where there is no guidance. */
    private readonly negativePrompt: string | undefined,
  ) {}

  static async compile(
    runtime: Runtime,
    pipeline: Pipeline,
    { steps, eta, guidance_scale: guidanceScale, height, width }: SamplingOptions,
    { batch, layout, negativePrompt = "", precision = "float32" }: SamplerOptions,
  ): Promise<Sampler> {
    const chain = ddimSteps(pipeline.scheduler, steps, { eta });
    const size = latentSize(pipeline, height, width);
    const prompts = await PromptEncoder.compile(runtime, pipeline);
    const graph = inPrecision(denoiseGraph(pipeline, layout, { batch, size, guidanceScale }), precision);
    const denoiser = await runtime.compile(graph, pipeline.weights);
    const negative = isGuided(guidanceScale) ? negativePrompt : undefined;
    return new Sampler(runtime, pipeline, chain, size, batch, prompts, denoiser, negative);
  }

  /** Elements of one picture's latents. */
  get latentElements(): number {
    return this.pipeline.unet.inChannels * this.size.height * this.size.width;
  }

  /** One prompt for each picture of the batch; `parameters`: what was learned. */
  async condition(prompts: readonly string[], parameters?: Float32Array): Promise<Told> {
    const { negativePrompt } = this;
    const conditional = await this.prompts.encode(prompts);
    const unconditional =
      negativePrompt !== undefined && (await this.prompts.encodeNegative(negativePrompt, prompts.length));
    return {
      ...named(conditional, ""),
      ...(unconditional && named(unconditional, UNCONDITIONAL)),
      ...(parameters && { parameters: float32(parameters, [parameters.length]) }),
    };
  }

  /** One call of the U-Net with guidance: latents of the batch at a step of the chain → its output. */
  async predict(told: Told, x: Float32Array, step: number): Promise<Float32Array> {
    const { output } = await this.denoiser.run({ ...told, ...this.place(x, step) });
    return toFloat32(output as HostTensor);
  }

  /** Denoises the batch's `initial` noise; `from`: guided away from what another sampler predicts. */
  sample(
    told: Told,
    initial: Float32Array,
    stepNoise: StepNoise,
    from?: { readonly base: Sampler; readonly told: Told; readonly power: number },
  ): Promise<Trajectory> {
    const own = (x: Float32Array, step: number) => this.predict(told, x, step);
    const base = from && ((x: Float32Array, step: number) => from.base.predict(from.told, x, step));
    const predict = base ? annealed(base, own, this.steps.length, from.power) : own;
    return forward(this.steps, { predict }, initial, stepNoise);
  }

  /** The U-Net's inputs that say where on the chain it is. */
  place(x: Float32Array, step: number): { latents: HostTensor; timestep: HostTensor } {
    const { height, width } = this.size;
    return {
      latents: float32(x, [this.batch, this.pipeline.unet.inChannels, height, width]),
      timestep: fromNumbers([(this.steps[step] as DdimStep).timestep], [1]),
    };
  }

  /** latents of the batch → images [b, 3, H, W] in 0 … 1 */
  async decode(latents: Float32Array): Promise<HostTensor> {
    this.decoder ??= this.runtime.compile(decodeGraph(this.pipeline, this.batch, this.size), this.pipeline.weights);
    const program = await this.decoder;
    const { images } = await program.run({ latents: this.place(latents, 0).latents });
    return images as HostTensor;
  }

  async release(): Promise<void> {
    await this.prompts.release();
    await this.denoiser.release();
    await (await this.decoder)?.release();
  }
}
