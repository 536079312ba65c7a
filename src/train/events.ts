/**
 * What a run tells the world. `train` only computes; whoever listens writes the run folder, draws the progress line or
 * follows in a test. Events are plain data, and `train` waits for each listener before it goes on.
 *
 * The order: `started`, then for step 0 (the model as it was, not when resuming) `evaluated`, then for every step
 * `evaluated` where one is due, `stepped`, and `checkpointed` where one is due; last `finished`.
 */

import type { Plan } from "../engine/plan.js";
import type { FileContent } from "../io/files.js";
import type { EvaluationResult } from "../scoring/evaluation.js";
import type { StopReason } from "./early-stop.js";

/** One row of `metrics.jsonl`, with the row's own keys. A step is `batch.total` pictures and the updates made of them. */
export interface StepMetrics {
  /** Counted from 1. */
  readonly step: number;
  /** Passes over `batch.samples_per_epoch`, counted from 0. */
  readonly epoch: number;
  /** Pictures trained on so far, this step's included. */
  readonly samples: number;
  readonly loss: number;
  readonly reward_mean: number;
  readonly reward_std: number;
  /** Rewards asked for in training so far, evaluations not included. */
  readonly reward_queries: number;
  /** Calls of the U-Net on one picture in training so far, forward or back; one that computes forward again on its way back is two. */
  readonly unet_calls: number;
  /** The squared distance of the predicted noise from the base model's, where `kl.weight` is positive; the loss has it times the weight. */
  readonly kl?: number;
  /** L2 norm of the gradient of all that learns, before clipping, the mean over the step's updates; null where all were skipped. */
  readonly grad_norm: number | null;
  /** Of an update in float16: what its gradient was scaled by (`loss-scale.ts`). */
  readonly loss_scale?: number;
  /** Present where halves could not hold the gradient of an update, and it left the weights as they were. */
  readonly skipped?: true;
  /** Wall time of this step, its evaluation not included. */
  readonly seconds: number;
  readonly peak_rss_bytes: number;
  /** Present where this step evaluated. */
  readonly eval_reward_mean?: number;
  readonly eval_reward_std?: number;
  /** Where the reward is a combination: the mean of each part as it is, before scale and weight, by its label. */
  readonly rewards?: Readonly<Record<string, number>>;
  readonly eval_rewards?: Readonly<Record<string, number>>;
  /** Where this step evaluated and a held-out reward watches. */
  readonly eval_held_out_mean?: number;
  readonly eval_held_out_std?: number;
  /** Where this step evaluated and diversity is measured: the mean cosine distance between pictures of the same prompt. */
  readonly eval_diversity?: number;
}

export interface TrainResult {
  /** The last step that was completed. */
  readonly step: number;
  /** Steps that the settings ask for. */
  readonly updates: number;
  /** True when an abort signal ended the run early. */
  readonly interrupted: boolean;
  /** Where the rule of `early_stop` ended it: why. */
  readonly stopped?: StopReason | undefined;
  /** The step of the best checkpoint by that rule, or by the highest evaluation reward where there is none. */
  readonly best?: number | undefined;
  /** Wall time of this invocation. */
  readonly seconds: number;
}

export type TrainEvent =
  /** `step` is the step resumed from, 0 for a new run. `baseDiversity` is what was measured at step 0, where it was. */
  | {
      readonly kind: "started";
      readonly plan: Plan;
      readonly step: number;
      readonly baseDiversity?: number | undefined;
    }
  | { readonly kind: "evaluated"; readonly step: number; readonly result: EvaluationResult }
  | { readonly kind: "stepped"; readonly metrics: StepMetrics }
  /**
   * Everything that resuming needs, by file name (`unet/config.json` lies in a folder). Where the files go is the listener's
   * affair. Pieces may share the run's memory: they hold until the listener returns.
   */
  | { readonly kind: "checkpointed"; readonly step: number; readonly files: ReadonlyMap<string, FileContent> }
  | { readonly kind: "warned"; readonly message: string }
  | { readonly kind: "finished"; readonly result: TrainResult };

export type TrainObserver = (event: TrainEvent) => void | Promise<void>;

/** Listeners are told one after another, in the order given. */
export function observers(...listeners: readonly TrainObserver[]): TrainObserver {
  return async (event) => {
    for (const listener of listeners) await listener(event);
  };
}
