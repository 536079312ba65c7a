/**
 * The pictures that each update trains on. Everything random about one belongs to its number (epoch, index), so nothing
 * depends on how pictures are batched, in which order they run, or whether the run was interrupted in between.
 */

import { inTemplate } from "../config/prompts.js";
import { type Settings, updatesPerEpoch } from "../config/settings.js";
import type { PictureNoise } from "../diffusion/noise.js";
import type { Estimator } from "../estimators/estimator.js";
import type { TrainingSample } from "../estimators/sample.js";
import { Rng } from "../tensor/rng.js";

/** Independent sequences under the run's seed. */
export const STREAMS = { adapter: 1, prompt: 2, noise: 3, mask: 4, estimator: 5 } as const;

/** The pictures of the `step`-th update, which counts from 1. */
export function samplesOf(
  step: number,
  settings: Settings,
  estimator: Estimator,
  latentElements: number,
): TrainingSample[] {
  const { batch, prompts, sampling, seed } = settings;
  const perEpoch = updatesPerEpoch(batch);
  const epoch = Math.floor((step - 1) / perEpoch);
  const first = ((step - 1) % perEpoch) * batch.total;
  return Array.from({ length: batch.total }, (_, i) => {
    const index = first + i;
    const prompt = new Rng(seed, STREAMS.prompt, epoch, index).choice(prompts.train);
    return {
      epoch,
      index,
      prompt: inTemplate(prompt, prompts.template),
      mask:
        estimator.kind === "update" ? estimator.mask(sampling.steps, new Rng(seed, STREAMS.mask, epoch, index)) : [],
      noise: () => trainingNoise(latentElements, seed, epoch, index),
      rng: (...use) => new Rng(seed, STREAMS.estimator, epoch, index, ...use),
    };
  });
}

/** The two uses of a picture's own random numbers. */
const INITIAL = 0;
const STEPS = 1;

/** A torch generator has 2^32 seeds and one sequence each; this one has a sequence for every picture of every seed. */
function trainingNoise(elements: number, seed: number, epoch: number, index: number): PictureNoise {
  const draw = (...use: number[]) => new Rng(seed, STREAMS.noise, epoch, index, ...use).normals(elements);
  return { initial: draw(INITIAL), step: (step) => draw(STEPS, step) };
}

/** The items at some places. */
export function pick<T>(items: readonly T[], places: readonly number[]): T[] {
  return places.map((place) => items[place] as T);
}

/** `items` in groups of `size`, the last one perhaps smaller. */
export function inBatches<T>(items: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, i) => items.slice(i * size, (i + 1) * size));
}
