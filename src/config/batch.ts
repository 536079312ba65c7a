/** Arithmetic of batch sizes, steps and threads. */

import { availableParallelism } from "node:os";
import { InputError } from "../errors/index.js";
import type { BatchSettings, SettingsPart } from "./settings.js";

/**
 * Micro-batches per training step and device. As in AlignProp's code, an epoch is a whole number of steps and a step a
 * whole number of micro-batches.
 *
 * @throws InputError `settings-conflict` if the numbers do not divide, with the nearest that do
 */
export function accumulationSteps(batch: BatchSettings, devices = 1): number {
  const atOnce = batch.per_device * devices;
  const problems: string[] = [];
  const total = roundToMultiple(batch.total, atOnce);
  if (batch.total % atOnce !== 0) {
    const each = devices === 1 ? `${atOnce} (batch.per_device)` : `${atOnce} (batch.per_device x ${devices} devices)`;
    const perDevice = nearestDivisor(batch.total / devices, batch.per_device);
    const other = perDevice === undefined ? "" : ` or batch.per_device ${perDevice}`;
    problems.push(`batch.total ${batch.total} is not a multiple of ${each}; try batch.total ${total}${other}`);
  }
  if (batch.samples_per_epoch % batch.total !== 0) {
    const samples = roundToMultiple(batch.samples_per_epoch, total);
    problems.push(
      `batch.samples_per_epoch ${batch.samples_per_epoch} is not a multiple of batch.total ${batch.total}; ` +
        `try batch.samples_per_epoch ${samples}${total === batch.total ? "" : ` with batch.total ${total}`}`,
    );
  }
  if (problems.length > 0)
    throw new InputError("settings-conflict", problems.join("\n"), { setting: "batch", devices });
  return batch.total / atOnce;
}

export function stepsPerEpoch(batch: BatchSettings): number {
  return batch.samples_per_epoch / batch.total;
}

/**
 * Images that an evaluation generates at once. If `evaluation.batch` equals `batch.per_device`, the evaluation shares the
 * training programs; otherwise the batch is at most the number of images.
 */
export function evaluationBatchSize({
  batch,
  evaluation,
  prompts,
}: SettingsPart<"batch" | "evaluation" | "prompts">): number {
  if (evaluation.batch === batch.per_device) return evaluation.batch;
  // A plan may have no prompts.
  return Math.max(1, Math.min(evaluation.batch, prompts.eval.length * evaluation.seeds_per_prompt));
}

/** CPU threads of the run; all cores unless the settings say otherwise. */
export function threadsOf({ threads }: SettingsPart<"threads">): number {
  return threads ?? availableParallelism();
}

function roundToMultiple(value: number, of: number): number {
  return Math.max(1, Math.round(value / of)) * of;
}

/** The divisor of `value` nearest to `wanted`; undefined if `value` is not an integer. */
function nearestDivisor(value: number, wanted: number): number | undefined {
  if (!Number.isInteger(value)) return undefined;
  for (let distance = 0; distance < Math.max(value, wanted); distance++) {
    for (const candidate of [wanted - distance, wanted + distance]) {
      if (candidate >= 1 && value % candidate === 0) return candidate;
    }
  }
  return undefined;
}

/** `threads: null` leaves the number of threads to the runtime. */
export function runtimeOptions({ device, threads }: SettingsPart<"device" | "threads">) {
  return { device, ...(threads !== null && { threads }) };
}
