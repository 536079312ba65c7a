/** Pictures from prompts: the text encoder, the denoising chain and the VAE decoder, compiled for one batch size. */
import { type DdimStep, ddimSteps } from "../diffusion/ddim.js";
import { isGuided } from "../diffusion/guidance.js";
import { forward, type StepNoise, type Trajectory } from "../diffusion/trajectory.js";
import type { LoraLayout } from "../nn/lora.js";
import type { Program, Runtime } from "../runtime/runtime.js";
import { float32, fromNumbers, type HostTensor, toFloat32 } from "../tensor/host.js";
import { Rng } from "../tensor/rng.js";
import type { RgbImage } from "./events.js";
import { decodeGraph, denoiseGraph, textGraph } from "./graphs.js";
import { type LatentSize, latentSize, type Pipeline } from "./pipeline.js";

export interface SamplingOptions {
  readonly steps: number;
  readonly eta: number;
  readonly guidance_scale: number;
  /** Pixels; null is the model's own size. */
  readonly height: number | null;
  readonly width: number | null;
}

/** What the U-Net is told besides latents and timestep; the same at every step. */
export type Conditioning = Readonly<Record<string, HostTensor>>;

export class Sampler {
  readonly steps: readonly DdimStep[];
  readonly size: LatentSize;
  /** Elements of one picture's latents. */
  readonly latentElements: number;
  private readonly embeddings = new Map<string, Float32Array>();
  private decoder: Promise<Program> | undefined;

  private constructor(
    private readonly runtime: Runtime,
    readonly pipeline: Pipeline,
    readonly options: SamplingOptions,
    readonly batch: number,
    readonly negativePrompt: string,
    private readonly encoder: Program,
    private readonly denoiser: Program,
  ) {
    this.steps = ddimSteps(pipeline.scheduler, options.steps, { eta: options.eta });
    this.size = latentSize(pipeline, options.height, options.width);
    this.latentElements = pipeline.unet.inChannels * this.size.height * this.size.width;
  }

  static async compile(
    runtime: Runtime,
    pipeline: Pipeline,
    options: SamplingOptions,
    { batch, layout, negativePrompt = "" }: { batch: number; layout?: LoraLayout | undefined; negativePrompt?: string },
  ): Promise<Sampler> {
    const size = latentSize(pipeline, options.height, options.width);
    const shape = { batch, size, guidanceScale: options.guidance_scale };
    const encoder = await runtime.compile(textGraph(pipeline, 1), pipeline.weights);
    const denoiser = await runtime.compile(denoiseGraph(pipeline, layout, shape), pipeline.weights);
    return new Sampler(runtime, pipeline, options, batch, negativePrompt, encoder, denoiser);
  }

  /** One prompt for each picture of the batch. */
  async condition(prompts: readonly string[], lora?: Float32Array): Promise<Conditioning> {
    const text = await this.embed(prompts);
    return {
      text,
      ...(isGuided(this.options.guidance_scale) && {
        unconditional: await this.embed(prompts.map(() => this.negativePrompt)),
      }),
      ...(lora && { lora: float32(lora, [lora.length]) }),
    };
  }

  /** One call of the U-Net with guidance: latents of the batch at a step of the chain → its output. */
  async predict(conditioning: Conditioning, x: Float32Array, step: number): Promise<Float32Array> {
    const { output } = await this.denoiser.run({ ...conditioning, ...this.place(x, step) });
    return toFloat32(output as HostTensor);
  }

  /** Denoises the batch's `initial` noise. */
  sample(conditioning: Conditioning, initial: Float32Array, stepNoise: StepNoise): Promise<Trajectory> {
    const predict = (x: Float32Array, step: number) => this.predict(conditioning, x, step);
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
    await this.encoder.release();
    await this.denoiser.release();
    await (await this.decoder)?.release();
  }

  /** Prompts [b] → text [b, n, d]. A prompt is encoded once, however often it is drawn. */
  private async embed(prompts: readonly string[]): Promise<HostTensor> {
    const { tokenizer, textEncoder } = this.pipeline;
    const each = tokenizer.maxLength * textEncoder.hiddenSize;
    const all = new Float32Array(prompts.length * each);
    for (const [i, prompt] of prompts.entries()) {
      let embedding = this.embeddings.get(prompt);
      if (!embedding) {
        const ids = fromNumbers(tokenizer.encode(prompt).ids, [1, tokenizer.maxLength], "int64");
        embedding = toFloat32((await this.encoder.run({ ids })).text as HostTensor);
        this.embeddings.set(prompt, embedding);
      }
      all.set(embedding, i * each);
    }
    return float32(all, [prompts.length, tokenizer.maxLength, textEncoder.hiddenSize]);
  }
}

/** The two uses of a picture's own random numbers. */
const INITIAL = 0;
const STEPS = 1;

/** A picture's noise: the latents it starts from and, where eta is positive, what each step adds. Its `key` makes it its own. */
export function pictureNoise(
  elements: number,
  seed: number,
  ...key: number[]
): { initial: Float32Array; step: StepNoise } {
  return {
    initial: new Rng(seed, ...key, INITIAL).normals(elements),
    step: (step) => new Rng(seed, ...key, STEPS, step).normals(elements),
  };
}

/** Rows of a batch, one after another. */
export function stack(rows: readonly Float32Array[]): Float32Array {
  const each = rows[0]?.length ?? 0;
  const all = new Float32Array(rows.length * each);
  for (const [i, row] of rows.entries()) all.set(row, i * each);
  return all;
}

/** images [b, 3, H, W] in 0 … 1 → 8-bit pictures */
export function toRgb(images: HostTensor): RgbImage[] {
  const [batch, , height, width] = images.shape as [number, number, number, number];
  const values = toFloat32(images);
  const plane = height * width;
  return Array.from({ length: batch }, (_, picture) => {
    const pixels = new Uint8Array(3 * plane);
    for (let channel = 0; channel < 3; channel++) {
      const start = (picture * 3 + channel) * plane;
      for (let i = 0; i < plane; i++) pixels[3 * i + channel] = Math.round(255 * (values[start + i] as number));
    }
    return { width, height, pixels };
  });
}
