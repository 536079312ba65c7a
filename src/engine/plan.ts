/** The cost of a run, counted from its graphs and its random draws without running it. */

import type { WeightHolding } from "../onnx/lower.js";
import type { Precision, TrainableLayout } from "../pipeline/index.js";
import { countCalls } from "./calls.js";
import { flops } from "./flops.js";
import type { MemoryPlan } from "./memory-plan.js";
import type { TrainingSetup } from "./setup.js";
import { programCalls } from "./time.js";
import { elementsUnder, type Work } from "./work.js";

/** A call is one run of a program on a micro-batch. Numbers per step are means, because truncation may be random. */
export interface Plan {
  readonly model: string;
  readonly reward: string;
  readonly backboneParameters: number;
  readonly trainable: TrainableLayout["kind"];
  readonly trainableParameters: number;
  /** Training steps of the run. */
  readonly steps: number;
  /** Global batch size, `batch.total`. */
  readonly samplesPerStep: number;
  /** Micro-batches per step and replica. */
  readonly accumulation: number;
  /** Samples that pass through the networks at once. Smaller than the replica's part of `batch.per_device` if memory is short. */
  readonly microBatch: number;
  /** Precision of the U-Net. */
  readonly precision: Precision;
  readonly unetForwardCallsPerStep: number;
  readonly unetBackwardCallsPerStep: number;
  /** Backward calls that recompute the forward pass. */
  readonly unetRecomputedCallsPerStep: number;
  /** Calls of the decoder and the reward, with the gradient if the estimator uses it. */
  readonly rewardCallsPerStep: number;
  /** Floating-point operations; a multiply-add counts as two. */
  readonly flopsPerStep: number;
  readonly memory: MemoryPlan;
  /** Parts that could not be opened, so that the numbers do not include them. */
  readonly uncounted: readonly string[];
  readonly evaluations: number;
  readonly imagesPerEvaluation: number;
  /** Measured times; present after a calibration. */
  readonly estimate?: PlanEstimate;
}

/** A plan of the same run for another memory budget. */
export interface PlanOption {
  readonly microBatch: number;
  readonly memory: MemoryPlan;
  /** How the programs of the U-Net hold its weights. */
  readonly unetWeights: WeightHolding;
  readonly secondsPerStep: number;
}

export interface PlanEstimate {
  readonly secondsPerStep: number;
  readonly secondsPerEvaluation: number;
  /** The whole run: steps and evaluations. */
  readonly seconds: number;
  /** What other budgets give, from the least memory to the most. */
  readonly options: readonly PlanOption[];
}

export async function countPlan(setup: TrainingSetup, { division, graphs, memory }: Work): Promise<Plan> {
  const { settings, pipeline, reward, layout, precision } = setup;
  const { batch, prompts, evaluation, train } = settings;
  const calls = await countCalls(setup, division, memory.maxSavedCalls);
  const { forward, backwardSaved, backwardRecomputed, scored } = calls;
  const programs = programCalls(graphs, calls, memory);
  return {
    model: settings.model,
    reward: reward.name,
    backboneParameters: elementsUnder(pipeline.weights, "unet."),
    trainable: settings.trainable,
    trainableParameters: layout.size,
    steps: train.steps,
    samplesPerStep: batch.total,
    accumulation: Math.ceil(batch.total / (division.ranks * division.replicas * division.microBatch)),
    microBatch: division.microBatch,
    precision,
    unetForwardCallsPerStep: forward,
    unetBackwardCallsPerStep: backwardSaved + backwardRecomputed,
    unetRecomputedCallsPerStep: backwardRecomputed,
    rewardCallsPerStep: scored,
    flopsPerStep: programs.reduce((sum, { graph, calls }) => sum + calls * flops(graph), 0),
    memory,
    uncounted: [],
    // Before the first step, after every `evaluation.every` steps, and after the last.
    evaluations: 1 + Math.ceil(train.steps / evaluation.every),
    imagesPerEvaluation: prompts.eval.length * evaluation.seeds_per_prompt,
  };
}
