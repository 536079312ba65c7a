/**
 * How the samples of a training step are divided: over the ranks of the run, over the replicas of a rank, and into
 * micro-batches. Replicas share a micro-batch of `batch.per_device` samples.
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
  { ranks = 1, localRanks = 1, replicas = 1 }: Partial<Division> = {},
): Division {
  return {
    ranks,
    localRanks,
    replicas,
    microBatch: settings.batch.per_device / replicas,
    evaluationBatch: Math.ceil(evaluationBatchSize(settings) / replicas),
  };
}
