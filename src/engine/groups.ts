/** Groups micro-batches for the backward pass, and picks the U-Net calls whose residuals are saved for it. */
import type { TrainingSample } from "../estimators/index.js";
import { inBatches } from "./samples.js";

/** Micro-batches that are back-propagated together, each as it was sampled. */
export type Group = readonly (readonly TrainingSample[])[];

/** A U-Net call of the forward pass: a micro-batch of a group at a denoising step. */
export interface Call {
  readonly batch: number;
  readonly step: number;
}

/**
 * If all samples keep the same steps, each micro-batch is a group of its own, so that its residuals are free before the next
 * one starts. If masks differ, all micro-batches form one group: samples that keep a step then fill its calls.
 */
export function groupSamples(samples: readonly TrainingSample[], batch: number): Group[] {
  const batches = inBatches(samples, batch);
  const [first] = samples;
  const alike = samples.every(({ mask }) => mask.every((kept, step) => kept === first?.mask[step]));
  return alike ? batches.map((samples) => [samples]) : [batches];
}

/**
 * The calls of a group whose residuals are saved: those that every sample of the micro-batch keeps, at most `limit`. The last
 * steps come first, because the backward pass reaches and releases them first.
 */
export function callsToSave(group: Group, limit: number): Call[] {
  const steps = group[0]?.[0]?.mask.length ?? 0;
  const calls: Call[] = [];
  for (let step = steps - 1; step >= 0; step--) {
    for (const [batch, samples] of group.entries()) {
      if (calls.length < limit && samples.every(({ mask }) => mask[step])) calls.push({ batch, step });
    }
  }
  return calls;
}
