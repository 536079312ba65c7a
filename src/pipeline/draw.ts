/** Pictures by prompt and seed, as evaluation and generation make them. */

import { seededNoise } from "../diffusion/noise.js";
import { stack } from "../diffusion/trajectory.js";
import { InputError } from "../errors/index.js";
import type { HostTensor } from "../tensor/host.js";
import type { Annealing, Sampler } from "./sampler.js";

export interface Picture {
  readonly prompt: string;
  readonly seed: number;
}

export interface SamplePicturesOptions {
  readonly signal?: AbortSignal | undefined;
  readonly annealing?: Annealing | undefined;
}

/**
 * Annealed guidance with this power from the model as it was: an adapter's with parameters of zeros, or another U-Net,
 * `base`. Where neither is given there is nothing to go to.
 */
export function annealingOf(
  power: number | undefined,
  sampler: Sampler,
  base: Sampler | undefined,
  lora: Float32Array | undefined,
): Annealing | undefined {
  if (power === undefined) return undefined;
  if (base) return { base, parameters: undefined, power };
  if (lora) return { base: sampler, parameters: new Float32Array(lora.length), power };
  throw new InputError(
    "model-mismatch",
    "annealed guidance goes from the base model to a tuned one, and none is given; name an adapter",
  );
}

/**
 * Samples pictures in batches. The last batch is filled up with repetitions of its last picture: `images` and `prompts`
 * have them, `pictures` has not.
 */
export async function* samplePictures(
  sampler: Sampler,
  pictures: readonly Picture[],
  lora: Float32Array | undefined,
  { signal, annealing }: SamplePicturesOptions = {},
): AsyncGenerator<{ pictures: readonly Picture[]; prompts: string[]; images: HostTensor }> {
  for (let start = 0; start < pictures.length; start += sampler.batch) {
    signal?.throwIfAborted();
    const batch = pictures.slice(start, start + sampler.batch);
    const full = Array.from({ length: sampler.batch }, (_, i) => batch[Math.min(i, batch.length - 1)] as Picture);
    const prompts = full.map(({ prompt }) => prompt);
    const noises = full.map(({ seed }) => seededNoise(sampler.latentElements, seed));
    const { final } = await sampler.sample(
      await sampler.condition(prompts, lora),
      stack(noises.map(({ initial }) => initial)),
      (step) => stack(noises.map((noise) => noise.step(step))),
      annealing && { ...annealing, told: await annealing.base.condition(prompts, annealing.parameters) },
    );
    for (const [i, { prompt, seed }] of batch.entries()) {
      const own = final.subarray(i * sampler.latentElements, (i + 1) * sampler.latentElements);
      if (own.every(Number.isFinite)) continue;
      throw new InputError(
        "model-mismatch",
        `the denoised latents are not finite for "${prompt}" (seed ${seed}); the weights of the model or of the adapter are broken`,
      );
    }
    yield { pictures: batch, prompts, images: await sampler.decode(final) };
  }
}
