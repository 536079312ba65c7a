/** Which pictures walk back through the chain together, and of which U-Net calls the residuals are kept for it. */

import type { Settings } from "../config/settings.js";
import type { Estimator } from "../estimators/estimator.js";
import type { TrainingSample } from "../estimators/sample.js";
import { inBatches, samplesOf } from "./samples.js";

/** Micro-batches that walk back together, each as it was sampled. */
export type Walk = readonly (readonly TrainingSample[])[];

/** One call of the U-Net on the way to the pictures: a micro-batch of a walk at a denoising step. */
export interface Call {
  readonly batch: number;
  readonly step: number;
}

/**
 * Where all pictures keep the same steps, every micro-batch walks back by itself, and what it held is free for the next.
 * Where they differ, all walk together: the pictures that keep a step then fill its calls.
 */
export function walksOf(samples: readonly TrainingSample[], batch: number): Walk[] {
  const batches = inBatches(samples, batch);
  const [first] = samples;
  const alike = samples.every(({ mask }) => mask.every((kept, step) => kept === first?.mask[step]));
  return alike ? batches.map((pictures) => [pictures]) : [batches];
}

/**
 * The calls of a walk whose residuals serve the way back: those that all pictures of the micro-batch keep. At most `limit`,
 * and of the last steps, which come first on the way back and are free first.
 */
export function callsToKeep(walk: Walk, limit: number): Call[] {
  const steps = walk[0]?.[0]?.mask.length ?? 0;
  const calls: Call[] = [];
  for (let step = steps - 1; step >= 0; step--) {
    for (const [batch, pictures] of walk.entries()) {
      if (calls.length < limit && pictures.every(({ mask }) => mask[step])) calls.push({ batch, step });
    }
  }
  return calls;
}

export interface BackwardCalls {
  /** That begin with kept residuals. */
  readonly kept: number;
  /** That compute the forward pass again. */
  readonly recomputed: number;
}

/** The U-Net's vector-Jacobian products of one walk: pictures whose residuals were not kept share calls step by step. */
export function backwardCalls(walk: Walk, batch: number, limit: number): BackwardCalls {
  const kept = callsToKeep(walk, limit);
  const steps = walk[0]?.[0]?.mask.length ?? 0;
  let recomputed = 0;
  for (let i = 0; i < steps; i++) {
    const pictures = walk.flat().filter(({ mask }) => mask[i]).length;
    recomputed += Math.ceil(pictures / batch) - kept.filter(({ step }) => step === i).length;
  }
  return { kept: kept.length, recomputed };
}

/** Each update's walks, by the run's own draws; of its first updates where they are many. */
export function drawnWalks(settings: Settings, estimator: Estimator): Walk[][] {
  const updates = Math.min(settings.train.updates, 20);
  // Prompts decide nothing here, and a plan may have none.
  const promptless = { ...settings, prompts: { ...settings.prompts, train: [""] } };
  return Array.from({ length: updates }, (_, i) =>
    walksOf(samplesOf(i + 1, promptless, estimator, 0), settings.batch.per_device),
  );
}
