/** Generates images from prompts and seeds. */
import { seededNoise } from "../diffusion/noise.js";
import { stack } from "../diffusion/trajectory.js";
import { InputError } from "../errors/index.js";
import type { HostTensor } from "../tensor/host.js";
import type { Annealing, Sampler } from "./sampler.js";

export interface ImageRequest {
  readonly prompt: string;
  readonly seed: number;
}

export interface SampleImagesOptions {
  readonly signal?: AbortSignal | undefined;
  readonly annealing?: Annealing | undefined;
}

/** A batch of generated images. */
export interface ImageBatch {
  readonly requests: readonly ImageRequest[];
  /** One per image of the batch. The last batch is filled up with copies of its last image, which `requests` leaves out. */
  readonly prompts: readonly string[];
  /** [b, 3, h, w] in 0 … 1 */
  readonly images: HostTensor;
}

/** Generates the requested images, a batch at a time. `parameters` are the adapter's, as one vector. */
export async function* sampleImages(
  sampler: Sampler,
  requests: readonly ImageRequest[],
  parameters: Float32Array | undefined,
  { signal, annealing }: SampleImagesOptions = {},
): AsyncGenerator<ImageBatch> {
  for (let start = 0; start < requests.length; start += sampler.batch) {
    signal?.throwIfAborted();
    const batch = requests.slice(start, start + sampler.batch);
    const full = Array.from({ length: sampler.batch }, (_, i) => batch[Math.min(i, batch.length - 1)] as ImageRequest);
    const prompts = full.map(({ prompt }) => prompt);
    const noises = full.map(({ seed }) => seededNoise(sampler.latentElements, seed));
    const { final } = await sampler.sample(
      await sampler.condition(prompts, parameters),
      stack(noises.map(({ initial }) => initial)),
      (step) => stack(noises.map((noise) => noise.step(step))),
      annealing && { ...annealing, conditioning: await annealing.base.condition(prompts, annealing.parameters) },
    );
    for (const [i, { prompt, seed }] of batch.entries()) {
      const own = final.subarray(i * sampler.latentElements, (i + 1) * sampler.latentElements);
      if (own.every(Number.isFinite)) continue;
      throw new InputError(
        "not-finite",
        `the denoised latents are not finite for "${prompt}" (seed ${seed}). Are the weights of the model or of the adapter damaged?`,
        { prompt, seed },
      );
    }
    yield { requests: batch, prompts, images: await sampler.decode(final) };
  }
}

/** The two models that annealed guidance goes between. */
export interface AnnealingOptions {
  readonly power: number | undefined;
  readonly sampler: Sampler;
  /** A sampler of the base model, if the fine-tuned model has another U-Net. */
  readonly base?: Sampler | undefined;
  /** The parameters of an adapter. The base model is the same sampler with parameters of zeros. */
  readonly parameters?: Float32Array | undefined;
}

/**
 * Annealed guidance from the base model to the fine-tuned one (`diffusion/annealing.ts`).
 *
 * @throws InputError `usage` if there is no fine-tuned model
 */
export function annealingOf({ power, sampler, base, parameters }: AnnealingOptions): Annealing | undefined {
  if (power === undefined) return undefined;
  if (base) return { base, parameters: undefined, power };
  if (parameters) return { base: sampler, parameters: new Float32Array(parameters.length), power };
  throw new InputError("usage", "annealed guidance goes from the base model to a fine-tuned one. Name an adapter.", {
    anneal: power,
  });
}
