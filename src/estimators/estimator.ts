/**
 * The contract of an estimator: how sampled images and their rewards become a gradient of the trainable parameters. Each
 * published estimator chooses which U-Net calls to differentiate and which upstream gradients to send into them. Each is one
 * file of this folder, written against `EstimatorContext`.
 */
import type { z } from "zod";
import type { DdimStep } from "../diffusion/ddim.js";
import type { Trajectory, Vjp, VjpCall } from "../diffusion/trajectory.js";
import type { ErrorFacts } from "../errors/index.js";
import type { BatchGradients, BatchLosses } from "../rewards/index.js";
import type { Rng } from "../tensor/rng.js";
import type { TrainingSample } from "./sample.js";

export type Estimator = DirectEstimator | RolloutEstimator;

interface Common {
  /** Shown in messages. */
  readonly name: string;
  /** True if it calls `context.scoreWithGradient`. An estimator that does not can train on any reward. */
  readonly usesRewardGradient: boolean;
  /** True if it reads `context.baseParameters`, which costs memory. */
  readonly usesBaseModel?: boolean;
}

/** Makes one optimizer update per training step. It sees one group of micro-batches at a time. */
export interface DirectEstimator extends Common {
  readonly kind: "direct";
  /** The denoising steps of one sample whose U-Net call is differentiated. It draws only from `rng`, which is the sample's own. */
  mask(steps: number, rng: Rng): boolean[];
  /** True if a VJP ever has to return dL/dx_t besides the gradient of the trainable parameters. */
  needsDx(steps: number): boolean;
  /**
   * Generates the images, scores them, and adds the gradient of their loss by `context.vjp` or `call.backward`, or to
   * `context.gradient` directly.
   */
  addGradient(context: EstimatorContext): Promise<void>;
}

/**
 * Generates and scores all images of a training step first, then makes one or several optimizer updates from the stored
 * trajectories.
 */
export interface RolloutEstimator extends Common {
  readonly kind: "rollout";
  readonly usesRewardGradient: false;
  /** For each optimizer update, the indices of the samples that it uses. */
  minibatches(samples: number): readonly (readonly number[])[];
  /**
   * A weight for each sample of the step, such as its advantage. `state` is what the previous step returned, as plain JSON
   * data that a checkpoint stores; it is undefined in the first step.
   */
  weigh(
    samples: readonly ScoredPrompt[],
    state: unknown,
  ): { readonly weights: readonly number[]; readonly state?: unknown };
  /** Adds the gradient of the loss of some samples, and returns the loss of each. */
  addGradient(context: EstimatorContext, batch: TrajectoryBatch): Promise<readonly number[]>;
}

/** Stored trajectories of the context's samples. */
export interface TrajectoryBatch {
  readonly trajectory: Trajectory;
  /** The weight of each sample. */
  readonly weights: readonly number[];
  /** Index of this optimizer update within the training step, from 0. */
  readonly update: number;
}

export interface ScoredPrompt {
  readonly prompt: string;
  readonly reward: number;
}

/**
 * Some samples of a training step, and the operations on them. An array of latents holds one sample after the other,
 * `latentElements` numbers each. The context divides the work into micro-batches.
 */
export interface EstimatorContext {
  readonly samples: readonly TrainingSample[];
  readonly steps: readonly DdimStep[];
  /** Numbers in the latents of one sample. */
  readonly latentElements: number;
  /** Samples of this optimizer update over all contexts, replicas and ranks. The loss is the mean over them. */
  readonly globalBatchSize: number;
  /** All trainable parameters as one vector. */
  readonly parameters: Float32Array;
  /** The parameters that the run began with. With them, the U-Net is the base model. */
  readonly baseParameters: Float32Array;
  /** dL/d parameters. `vjp` and `backward` add to it. */
  readonly gradient: Float64Array;
  /** Runs the denoising chain: x_T … x_0 of all samples. */
  sample(options?: SampleOptions): Promise<Trajectory>;
  /** Calls the U-Net at one step of the chain, at any latents. The result can be differentiated. */
  callUnet(options: UnetCallOptions): Promise<UnetCall>;
  /** Differentiates a U-Net call that `sample` made: takes dL/d output, adds dL/d parameters to `gradient`, returns dL/dx_t. */
  vjp(call: VjpCall): Promise<Pick<Vjp, "dx">>;
  /** Decodes and scores the latents x_0 of all samples: rewards, losses and dL/dx_0, with L the mean loss of the update. */
  scoreWithGradient(latents: Float32Array): Promise<BatchGradients>;
  /** The same without the gradient. */
  score(latents: Float32Array): Promise<BatchLosses>;
}

export interface SampleOptions {
  /** For each sample, the index of the last denoising step to run. Latents after it are 0. */
  readonly until?: readonly number[];
  /** Store the U-Net's outputs at the steps that any mask keeps. */
  readonly outputs?: boolean;
  /** Use these parameters instead of `context.parameters`. */
  readonly parameters?: Float32Array;
}

export interface UnetCallOptions {
  readonly step: number;
  /** Latents of the `samples` below, and of no others. */
  readonly x: Float32Array;
  /** Indices into `context.samples`; all when left out. */
  readonly samples?: readonly number[];
  /** Return dL/dx from `backward`. The estimator's `needsDx` must be true. */
  readonly wantsDx?: boolean;
  /** Use these parameters instead of `context.parameters`. They get no gradient. */
  readonly parameters?: Float32Array;
}

export interface UnetCall {
  /** Same length as `x`. */
  readonly output: Float32Array;
  /** Takes dL/d output, adds dL/d parameters to the gradient, and returns dL/dx if wanted. Call it at most once. */
  backward(upstream: Float32Array): Promise<Pick<Vjp, "dx">>;
}

/** An estimator by name: the schema of its settings, and how it is created from them. */
export interface EstimatorKind<S extends z.ZodObject = z.ZodObject> {
  readonly schema: S;
  /** Settings that are valid by themselves but do not fit the run's other settings. */
  problems?(settings: z.output<S>, others: OtherSettings): readonly KeyProblem[];
  create(settings: z.output<S>): Estimator | Promise<Estimator>;
}

/** The run's other settings that an estimator may depend on. */
export interface OtherSettings {
  readonly sampling: { readonly steps: number; readonly eta: number };
  readonly batch: { readonly total: number };
}

export interface KeyProblem {
  /** Path of the key below `estimator`. */
  readonly path: readonly string[];
  /** Continues a sentence that begins with the full key: `is 51, but …`. A whole sentence if `path` is empty. */
  readonly message: string;
  /** `found`, `with` (the other setting), `expected` or `limit`; `setting` if it is not the key at `path`. */
  readonly facts: ErrorFacts;
}

/** Infers the type of the schema. */
export function estimatorKind<S extends z.ZodObject>(kind: EstimatorKind<S>): EstimatorKind<S> {
  return kind;
}

/** True if the run compares the model with the one that it began with, so that the base parameters must be in memory. */
export function needsBaseModel(klWeight: number, estimator: Estimator): boolean {
  return klWeight > 0 || estimator.usesBaseModel === true;
}
