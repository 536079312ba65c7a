/** Images from prompts: the text encoder, the denoising chain and the VAE decoder, compiled for one batch size. */
import type { SamplingSettings } from "../config/index.js";
import { annealed } from "../diffusion/annealing.js";
import { type DdimStep, ddimSteps } from "../diffusion/ddim.js";
import { isGuided } from "../diffusion/guidance.js";
import { forward, type StepNoise, type Trajectory } from "../diffusion/trajectory.js";
import type { Graph } from "../graph/graph.js";
import type { Program, Runtime } from "../runtime/runtime.js";
import { float32, fromNumbers, type HostTensor, toFloat32 } from "../tensor/host.js";
import { decodeGraph, denoiser, named, textGraph, UNCONDITIONAL } from "./graphs.js";
import { type LatentSize, latentSize } from "./latent-size.js";
import type { Pipeline } from "./pipeline.js";
import { inPrecision, type Precision } from "./precision.js";
import { PromptEncoder } from "./prompt-encoder.js";
import type { TrainableLayout } from "./trainable.js";

/** The U-Net's inputs that are the same at every step: prompt embeddings and trainable parameters. */
export type ConditioningInputs = Readonly<Record<string, HostTensor>>;

/** Annealed guidance (`annealing.ts`) away from the predictions of a base model. */
export interface Annealing {
  readonly base: Sampler;
  readonly parameters: Float32Array | undefined;
  readonly power: number;
}

export interface SamplerGraphs {
  /** Images per call. */
  readonly batch: number;
  readonly size: LatentSize;
  readonly text: Graph;
  readonly denoise: Graph;
  readonly decode: Graph;
}

export interface SamplerGraphOptions {
  /** Images sampled at once. */
  readonly batch: number;
  /** Layout of the parameters that `condition` will receive. */
  readonly layout?: TrainableLayout | undefined;
  /** Precision of the U-Net. */
  readonly precision?: Precision;
}

function samplerGraphs(
  pipeline: Pipeline,
  { guidance_scale: guidanceScale, height, width }: SamplingSettings,
  { batch, layout, precision = "float32" }: SamplerGraphOptions,
): SamplerGraphs {
  const size = latentSize(pipeline, height, width);
  return {
    batch,
    size,
    text: textGraph(pipeline),
    denoise: inPrecision(denoiser(pipeline, { batch, size, guidanceScale, layout }).graph, precision),
    decode: decodeGraph(pipeline, batch, size),
  };
}

export interface SamplerOptions {
  readonly negativePrompt?: string;
  /** Shared with other samplers, and not released with this one. Compiled when left out. */
  readonly prompts?: PromptEncoder | Promise<PromptEncoder>;
}

interface SamplerParts {
  readonly runtime: Runtime;
  readonly graphs: SamplerGraphs;
  readonly denoise: Program;
  readonly prompts: PromptEncoder;
  readonly ownsPrompts: boolean;
  /** Undefined without guidance. */
  readonly negativePrompt: string | undefined;
}

export class Sampler {
  private decoder: Promise<Program> | undefined;

  private constructor(
    readonly pipeline: Pipeline,
    /** The denoising steps of the chain. */
    readonly steps: readonly DdimStep[],
    private readonly parts: SamplerParts,
  ) {}

  static async compile(
    runtime: Runtime,
    pipeline: Pipeline,
    sampling: SamplingSettings,
    {
      graphs,
      negativePrompt = "",
      prompts,
      ...options
    }: SamplerOptions & ({ readonly graphs: SamplerGraphs } | (SamplerGraphOptions & { readonly graphs?: undefined })),
  ): Promise<Sampler> {
    const built = graphs ?? samplerGraphs(pipeline, sampling, options as SamplerGraphOptions);
    const chain = ddimSteps(pipeline.scheduler, sampling.steps, { eta: sampling.eta });
    const [encoder, denoise] = await Promise.all([
      prompts ?? PromptEncoder.compile(runtime, pipeline, built.text),
      runtime.compile(built.denoise, pipeline.weights),
    ]);
    const negative = isGuided(sampling.guidance_scale) ? negativePrompt : undefined;
    return new Sampler(pipeline, chain, {
      runtime,
      graphs: built,
      denoise,
      prompts: encoder,
      ownsPrompts: prompts === undefined,
      negativePrompt: negative,
    });
  }

  /** The text encoder, to share with another sampler. */
  get prompts(): PromptEncoder {
    return this.parts.prompts;
  }

  /** Images per call. */
  get batch(): number {
    return this.parts.graphs.batch;
  }

  /** Numbers in the latents of one image. */
  get latentElements(): number {
    const { height, width } = this.parts.graphs.size;
    return this.pipeline.unet.inChannels * height * width;
  }

  /** The inputs for one prompt per image of the batch. */
  async condition(prompts: readonly string[], parameters?: Float32Array): Promise<ConditioningInputs> {
    const { negativePrompt, prompts: encoder } = this.parts;
    const conditional = await encoder.encode(prompts);
    const unconditional =
      negativePrompt !== undefined && (await encoder.encodeNegative(negativePrompt, prompts.length));
    return {
      ...named(conditional, ""),
      ...(unconditional && named(unconditional, UNCONDITIONAL)),
      ...(parameters && { parameters: float32(parameters, [parameters.length]) }),
    };
  }

  /** One U-Net call with guidance: latents of the batch at a step of the chain → the model's output. */
  async predict(conditioning: ConditioningInputs, x: Float32Array, step: number): Promise<Float32Array> {
    const { output } = await this.parts.denoise.run({ ...conditioning, ...this.latentInputs(x, step) });
    return toFloat32(output as HostTensor);
  }

  /** Denoises a batch of initial noise. With `from`, guidance is annealed from another sampler's predictions. */
  sample(
    conditioning: ConditioningInputs,
    initial: Float32Array,
    stepNoise: StepNoise,
    from?: { readonly base: Sampler; readonly conditioning: ConditioningInputs; readonly power: number },
  ): Promise<Trajectory> {
    const own = (x: Float32Array, step: number) => this.predict(conditioning, x, step);
    const base = from && ((x: Float32Array, step: number) => from.base.predict(from.conditioning, x, step));
    const predict = base ? annealed(base, own, this.steps.length, from.power) : own;
    return forward(this.steps, { predict }, initial, stepNoise);
  }

  /** The U-Net's inputs for latents at a step of the chain. */
  latentInputs(x: Float32Array, step: number): { latents: HostTensor; timestep: HostTensor } {
    return {
      latents: this.latents(x),
      timestep: fromNumbers([(this.steps[step] as DdimStep).timestep], [1]),
    };
  }

  /** Latents of the batch as a tensor [b, c, h, w]. */
  latents(x: Float32Array): HostTensor {
    const { height, width } = this.parts.graphs.size;
    return float32(x, [this.batch, this.pipeline.unet.inChannels, height, width]);
  }

  /** latents of the batch → images [b, 3, H, W] in 0 … 1. The first call compiles the decoder. */
  async decode(latents: Float32Array): Promise<HostTensor> {
    this.decoder ??= this.parts.runtime.compile(this.parts.graphs.decode, this.pipeline.weights);
    const program = await this.decoder;
    const { images } = await program.run({ latents: this.latents(latents) });
    return images as HostTensor;
  }

  async release(): Promise<void> {
    const { denoise, prompts, ownsPrompts } = this.parts;
    if (ownsPrompts) await prompts.release();
    await denoise.release();
    await (await this.decoder)?.release();
  }
}
