/** The state of a run: everything that changes from step to step. A checkpoint stores it. */

import type { SettingsPart } from "../config/index.js";
import { type Cost, initialLossScale, type LossScale, NO_COST } from "../engine/index.js";
import type { EvaluationSummary } from "./early-stop.js";
import { type AdamWState, adamwState } from "./optimizer.js";

export interface TrainingState {
  /** Steps done. */
  step: number;
  /** The trainable parameters, changed in place by every optimizer update. */
  readonly weights: Float32Array;
  /** Their exponential moving average, if `ema.decay` is set. */
  readonly averaged: Float32Array | null;
  readonly optimizer: AdamWState;
  /** All evaluations so far. The best checkpoint and early stopping follow from them. */
  readonly history: EvaluationSummary[];
  /** Only in float16. */
  lossScale: LossScale | null;
  /** Parameters of the base model, if the run started from an adapter that may be gone by now. */
  readonly base?: Float32Array | undefined;
  /** Cost of the training so far. */
  cost: Cost;
  /** State of the estimator, as plain JSON data. */
  estimatorState?: unknown;
}

/** The state before the first step. */
export function initialState(weights: Float32Array, { ema }: SettingsPart<"ema">): TrainingState {
  return {
    step: 0,
    weights,
    averaged: ema.decay === null ? null : weights.slice(),
    optimizer: adamwState(weights.length),
    history: [],
    lossScale: null,
    cost: NO_COST,
  };
}

/** The parameters to evaluate and export. */
export function exportedWeights({ averaged, weights }: TrainingState): Float32Array {
  return averaged ?? weights;
}

/** Starts loss scaling when a run begins in float16, and ends it when a run goes on in float32. */
export function withLossScale(state: TrainingState, isFloat16: boolean): TrainingState {
  state.lossScale = isFloat16 ? (state.lossScale ?? initialLossScale()) : null;
  return state;
}
