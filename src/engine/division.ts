/**
 * How the samples of a training step are divided: over the ranks of the run, over the replicas of a rank, and into
 * micro-batches. Replicas share `batch.per_device` samples. Where memory is short, a replica passes fewer of its samples through
 * the networks at once (`microBatch`), which gives the same gradient.
 */

import { evaluationBatchSize, type SettingsPart } from "../config/index.js";

export interface Division {
  /** Processes of the run. */
  readonly ranks: number;
  /** Processes of the run on this machine, which share its memory. */
  readonly localRanks: number;
  /** Copies of the programs in each process (`replicas.ts`). */
  readonly replicas: number;
  /** Samples that one replica passes through the U-Net at once. */
  readonly microBatch: number;
  /** Images that one replica generates at once in an evaluation. */
  readonly evaluationBatch: number;
}

export function divide(
  settings: SettingsPart<"batch" | "evaluation" | "prompts">,
  { ranks = 1, localRanks = 1, replicas = 1, microBatch }: Partial<Omit<Division, "evaluationBatch">> = {},
): Division {
  const evaluationBatch = Math.ceil(evaluationBatchSize(settings) / replicas);
  return {
    ranks,
    localRanks,
    replicas,
    microBatch: microBatch ?? settings.batch.per_device / replicas,
    evaluationBatch: Math.min(evaluationBatch, microBatch ?? evaluationBatch),
  };
}
