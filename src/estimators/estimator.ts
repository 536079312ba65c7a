/**
 * How pictures and their rewards become a gradient of what learns. Every published estimator is a choice of U-Net calls and
 * of what goes upstream into their vector-Jacobian products; each is one file of this folder, written against `Toolbox`.
 */

import type { z } from "zod";
import type { DdimStep } from "../diffusion/ddim.js";
import type { Trajectory, Vjp, VjpCall } from "../diffusion/trajectory.js";
import type { JudgedLatents, JudgedPictures } from "../rewards/scores.js";
import type { Rng } from "../tensor/rng.js";
import type { TrainingSample } from "./sample.js";

export type Estimator = UpdateEstimator | RoundEstimator;

interface Common {
  readonly name: string;
  /** Whether it asks `Toolbox.judge` for the reward's gradient. One that does not learns from any reward. */
  readonly rewardGradient: boolean;
  /** Whether it asks for `Toolbox.base`, which takes memory. */
  readonly usesBase?: boolean;
}

/** Makes one optimizer update of a step's pictures, and needs to see no more than a micro-batch of them at a time. */
export interface UpdateEstimator extends Common {
  readonly kind: "update";
  /** For one picture, the steps of its chain whose U-Net call has its gradient taken. Draws only from `rng`, the picture's own. */
  mask(steps: number, rng: Rng): boolean[];
  /** Whether `vjp` ever has to return dL/dx_t besides the gradient of what learns. */
  needsDx(steps: number): boolean;
  /** Samples the pictures, has them judged, and adds the gradient of their loss by `tools.vjp` and `call.back`. */
  learn(tools: Toolbox): Promise<void>;
}

/**
 * Samples all pictures of a step, looks at all their rewards, and then makes one or several optimizer updates from what it
 * kept of the chains.
 */
export interface RoundEstimator extends Common {
  readonly kind: "round";
  readonly rewardGradient: false;
  /** For each optimizer update, the places of the pictures that it learns from. */
  minibatches(pictures: number): readonly (readonly number[])[];
  /**
   * What each picture of the round counts for. `memory` is what the last round returned, plain data that a checkpoint keeps;
   * undefined in the first one.
   */
  weigh(
    round: readonly Rewarded[],
    memory: unknown,
  ): { readonly weights: readonly number[]; readonly memory?: unknown };
  /** Adds the gradient of the loss of some of the pictures; returns each one's loss. */
  learn(tools: Toolbox, lesson: Lesson): Promise<readonly number[]>;
}

/** What was kept of the toolbox's pictures. */
export interface Lesson {
  readonly trajectory: Trajectory;
  /** What each counts for. */
  readonly weights: readonly number[];
  /** Which of the round's optimizer updates this is, counted from 0. */
  readonly update: number;
}

export interface Rewarded {
  readonly prompt: string;
  readonly reward: number;
}

/**
 * Some pictures of a step and all that can be done with them. Latents are held picture after picture, `size` numbers each;
 * how they are divided into micro-batches is the toolbox's affair.
 */
export interface Toolbox {
  /** Each with its prompt, its mask, and random numbers of its own: `noise()` of its chain, `rng(use)` for anything else. */
  readonly samples: readonly TrainingSample[];
  readonly steps: readonly DdimStep[];
  readonly size: number;
  /** Pictures in this optimizer update, of which these may be a part. The loss is the mean over them all. */
  readonly total: number;
  /** What learns, as one vector. */
  readonly parameters: Float32Array;
  /** The same as it was when the run began: with it, the U-Net is the base model's. */
  readonly base: Float32Array;
  /** dL/d parameters, to which `vjp` and `back` add. */
  readonly gradient: Float64Array;
  /** x_T … x_0 of all pictures. */
  sample(options?: SampleOptions): Promise<Trajectory>;
  /** The U-Net at a step of the chain, and the way back through it. */
  call(at: CallAt): Promise<UnetCall>;
  /** For calls of `sample`: dL/dx_t from dL/d output, and the gradient of what learns. */
  vjp(call: VjpCall): Promise<Pick<Vjp, "dx">>;
  /** Reward, loss, and the gradient of the losses' mean over the update. Latents are those of all pictures, at x_0. */
  judge(latents: Float32Array): Promise<JudgedLatents>;
  /** Reward and loss alone. */
  reward(latents: Float32Array): Promise<JudgedPictures>;
}

export interface SampleOptions {
  /** For each picture the last step that matters; a later x_t is 0. */
  readonly until?: readonly number[];
  /** Whether the trajectory holds the outputs at the steps whose gradient is taken. */
  readonly outputs?: boolean;
  /** In the place of what learns. */
  readonly parameters?: Float32Array;
}

export interface CallAt {
  readonly step: number;
  /** Latents of these pictures, and of no others. */
  readonly x: Float32Array;
  /** Places in `samples`; left out: all. */
  readonly pictures?: readonly number[];
  /** Whether the way back returns dL/dx, for which the estimator `needsDx`. */
  readonly wantsDx?: boolean;
  /** In the place of what learns, which then gets no gradient. */
  readonly parameters?: Float32Array;
}

export interface UnetCall {
  /** Like x. */
  readonly output: Float32Array;
  /** Adds to the gradient what dL/d output comes to; returns dL/dx where it is wanted. Call it once at most. */
  back(upstream: Float32Array): Promise<Pick<Vjp, "dx">>;
}

/** An estimator by its name: the settings that it takes, and how it is made from them. */
export interface EstimatorKind<S extends z.ZodObject = z.ZodObject> {
  readonly schema: S;
  /** What no single key can show: for each key that does not go with the other settings, why. */
  problems?(settings: z.output<S>, others: OtherSettings): readonly KeyProblem[];
  create(settings: z.output<S>): Estimator | Promise<Estimator>;
}

/** What of the run's other settings an estimator may have to fit. */
export interface OtherSettings {
  readonly sampling: { readonly steps: number; readonly eta: number };
  readonly batch: { readonly total: number };
}

export interface KeyProblem {
  /** Below `estimator`. */
  readonly path: readonly string[];
  /** Follows the key's full path: `is 51, but …`. */
  readonly message: string;
}

/** Keeps the schema's type. */
export function estimatorKind<S extends z.ZodObject>(kind: EstimatorKind<S>): EstimatorKind<S> {
  return kind;
}

/** Whether the model is compared with what it was when the run began. */
export function needsBase({ kl }: { readonly kl: { readonly weight: number } }, estimator: Estimator): boolean {
  return kl.weight > 0 || estimator.usesBase === true;
}
