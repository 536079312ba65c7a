/**
 * The events of a run. `train` only computes; its observer writes the run folder, draws the progress line, or follows a test.
 * Events are plain data, and `train` waits for the observer before it goes on.
 *
 * Order: `started`; for a new run `evaluated` at step 0 (the base model); then for every step `evaluated` if an evaluation is
 * due, `stepped`, and `checkpointed` if a checkpoint is due; at the end `finished`.
 */
import type { Plan } from "../engine/index.js";
import type { FileContent } from "../io/files.js";
import type { EvaluationResult } from "../scoring/index.js";
import type { StopReason } from "./early-stop.js";

/** One row of `metrics.jsonl`, with its keys. A step generates `batch.total` samples and makes one or more optimizer updates. */
export interface StepMetrics {
  /** Counted from 1. */
  readonly step: number;
  /** Passes over `batch.samples_per_epoch`, counted from 0. */
  readonly epoch: number;
  /** Samples trained on so far, including this step. */
  readonly samples: number;
  readonly loss: number;
  readonly reward_mean: number;
  readonly reward_std: number;
  /** Images scored in training so far, without evaluations. */
  readonly reward_queries: number;
  /** U-Net calls per sample in training so far: a forward call counts 1, a backward call 1, or 2 if it recomputes the forward pass. */
  readonly unet_calls: number;
  /** Mean squared distance of the predicted noise from the base model's; present if `kl.weight` is positive. The loss contains it times the weight. */
  readonly kl?: number;
  /** L2 norm of the gradient before clipping, mean over the step's optimizer updates; null if all were skipped. */
  readonly grad_norm: number | null;
  /** Loss scale of this step; float16 only. */
  readonly loss_scale?: number;
  /** Present if a float16 gradient overflowed, so that an optimizer update was skipped. */
  readonly skipped?: true;
  /** Wall time of this step without its evaluation. */
  readonly seconds: number;
  readonly peak_rss_bytes: number;
  /** Present if this step evaluated. */
  readonly eval_reward_mean?: number;
  readonly eval_reward_std?: number;
  /** Mean of each part of a combined reward, before scale and weight, by its label. */
  readonly rewards?: Readonly<Record<string, number>>;
  readonly eval_rewards?: Readonly<Record<string, number>>;
  /** Present if this step evaluated a held-out reward. */
  readonly eval_held_out_mean?: number;
  readonly eval_held_out_std?: number;
  /** Mean cosine distance between images of the same prompt; present if this step measured diversity. */
  readonly eval_diversity?: number;
}

export interface TrainResult {
  /** The last completed step. */
  readonly step: number;
  /** Steps that the settings ask for. */
  readonly steps: number;
  /** True if an abort signal ended the run early. */
  readonly interrupted: boolean;
  /** Why `early_stop` ended the run. */
  readonly stopped?: StopReason | undefined;
  /** Step of the best checkpoint by `early_stop`, or by the highest evaluation reward without it. */
  readonly best?: number | undefined;
  /** Wall time of this call. */
  readonly seconds: number;
}

export type TrainEvent =
  /** `step` is the step to resume from, 0 for a new run. `baseDiversity` was measured at step 0. */
  | {
      readonly kind: "started";
      readonly plan: Plan;
      readonly step: number;
      readonly baseDiversity?: number | undefined;
    }
  | { readonly kind: "evaluated"; readonly step: number; readonly result: EvaluationResult }
  | { readonly kind: "stepped"; readonly metrics: StepMetrics }
  /**
   * The files of a checkpoint by name (`unet/config.json` is in a subfolder). The observer decides where to write them. Their
   * bytes may share the run's memory, so they are valid only until the observer returns.
   */
  | { readonly kind: "checkpointed"; readonly step: number; readonly files: ReadonlyMap<string, FileContent> }
  | { readonly kind: "warned"; readonly message: string }
  | { readonly kind: "finished"; readonly result: TrainResult };

/** Called with each event of a run. Training waits until it returns. */
export type TrainObserver = (event: TrainEvent) => void | Promise<void>;

/**
 * An observer that calls several, one after the other.
 *
 * @example
 * await train(settings, observers(writeRow, ({ kind }) => console.log(kind)));
 */
export function observers(...all: readonly TrainObserver[]): TrainObserver {
  return async (event) => {
    for (const observer of all) await observer(event);
  };
}
