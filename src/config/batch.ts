/** Arithmetic of batch sizes, steps and threads. */
import { availableParallelism } from "node:os";
import { type ErrorFacts, InputError } from "../errors/index.js";
import type { BatchSettings, SettingsPart } from "./settings.js";

/**
 * The number of micro-batches per training step and device. As in AlignProp's code, an epoch is a whole number of steps and a
 * step a whole number of micro-batches.
 *
 * @throws InputError `settings-conflict` if the numbers do not divide; the message suggests numbers that do
 */
export function accumulationSteps(batch: BatchSettings, devices = 1): number {
  const problems = batchProblems(batch, devices);
  const [first] = problems;
  if (first) {
    const settings = problems.map(({ facts }) => facts.setting as string);
    const message = problems.map(({ message }) => message).join("\n");
    throw new InputError("settings-conflict", message, { settings, ...first.facts });
  }
  return batch.total / (batch.per_device * devices);
}

export interface BatchProblem {
  readonly message: string;
  readonly facts: ErrorFacts;
}

/** Batch sizes that do not divide each other, with the nearest that do. */
export function batchProblems(batch: BatchSettings, devices: number): BatchProblem[] {
  const { total, per_device, samples_per_epoch } = batch;
  const problems: BatchProblem[] = [];
  const atOnce = per_device * devices;
  const nearTotal = roundToMultiple(total, atOnce);
  if (total % atOnce !== 0) {
    const each = devices === 1 ? `${atOnce} (batch.per_device)` : `${atOnce} (batch.per_device x ${devices} devices)`;
    const perDevice = nearestDivisor(total / devices, per_device);
    const other = perDevice === undefined ? "" : ` or batch.per_device ${perDevice}`;
    problems.push({
      message: `batch.total ${total} is not a multiple of ${each}; try batch.total ${nearTotal}${other}`,
      facts: {
        setting: "batch.total",
        with: "batch.per_device",
        found: total,
        divisor: atOnce,
        devices,
        suggestion: nearTotal,
        per_device: perDevice,
      },
    });
  }
  if (samples_per_epoch % total !== 0) {
    const suggestion = roundToMultiple(samples_per_epoch, nearTotal);
    const withTotal = nearTotal === total ? "" : ` with batch.total ${nearTotal}`;
    problems.push({
      message:
        `batch.samples_per_epoch ${samples_per_epoch} is not a multiple of batch.total ${total}; ` +
        `try batch.samples_per_epoch ${suggestion}${withTotal}`,
      facts: {
        setting: "batch.samples_per_epoch",
        with: "batch.total",
        found: samples_per_epoch,
        divisor: total,
        suggestion,
      },
    });
  }
  return problems;
}

/** Training steps per epoch. */
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
  // There are no prompts in a plan without its prompt files.
  return Math.max(1, Math.min(evaluation.batch, prompts.eval.length * evaluation.seeds_per_prompt));
}

/** CPU threads of the run: all cores, unless the settings give a number. */
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

/** The options of a runtime. With `threads: null`, the runtime chooses the number of threads. */
export function runtimeOptions({ device, threads }: SettingsPart<"device" | "threads">) {
  return { device, ...(threads !== null && { threads }) };
}
