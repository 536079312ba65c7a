/**
 * The samples of each training step. Everything random about a sample is seeded by its epoch and index, so nothing depends
 * on how samples are divided into batches, on the order in which they run, or on an interruption between steps.
 */

import { inTemplate, type SettingsPart, stepsPerEpoch } from "../config/index.js";
import type { ChainNoise } from "../diffusion/noise.js";
import type { Estimator, TrainingSample } from "../estimators/index.js";
import { Rng } from "../tensor/rng.js";

/** Independent random sequences under the run's seed. */
export const STREAMS = { adapter: 1, prompt: 2, noise: 3, mask: 4, estimator: 5 } as const;

/** The samples of a training step, counted from 1. A plan may have no prompts; each is then an empty string. */
export function drawSamples(
  step: number,
  settings: SettingsPart<"batch" | "prompts" | "sampling" | "seed">,
  estimator: Estimator,
  latentElements: number,
): TrainingSample[] {
  const { batch, prompts, sampling, seed } = settings;
  const perEpoch = stepsPerEpoch(batch);
  const epoch = Math.floor((step - 1) / perEpoch);
  const first = ((step - 1) % perEpoch) * batch.total;
  return Array.from({ length: batch.total }, (_, i) => {
    const index = first + i;
    const rng = (stream: number, ...use: number[]) => new Rng(seed, stream, epoch, index, ...use);
    const prompt = prompts.train.length === 0 ? "" : rng(STREAMS.prompt).choice(prompts.train);
    return {
      epoch,
      index,
      prompt: inTemplate(prompt, prompts.template),
      mask: estimator.kind === "direct" ? estimator.mask(sampling.steps, rng(STREAMS.mask)) : [],
      noise: () => chainNoise(latentElements, (...use) => rng(STREAMS.noise, ...use)),
      rng: (...use) => rng(STREAMS.estimator, ...use),
    };
  });
}

/** The two uses of a sample's noise stream. */
const INITIAL = 0;
const STEPS = 1;

/** Our own generator, because torch's has 2^32 seeds with one sequence each, too few for every sample of every run. */
function chainNoise(elements: number, rng: (...use: number[]) => Rng): ChainNoise {
  const draw = (...use: number[]) => rng(...use).normals(elements);
  return { initial: draw(INITIAL), step: (step) => draw(STEPS, step) };
}

/** The items at some indices. */
export function pick<T>(items: readonly T[], indices: readonly number[]): T[] {
  return indices.map((index) => items[index] as T);
}

/** `items` in batches of `size`; the last one may be smaller. */
export function inBatches<T>(items: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, i) => items.slice(i * size, (i + 1) * size));
}
