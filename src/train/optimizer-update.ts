/** One optimizer update of a run. */

import type { SettingsPart } from "../config/index.js";
import { type GradientResult, recordOverflow, recordUpdate, requireFiniteParameters } from "../engine/index.js";
import type { TrainableLayout } from "../pipeline/index.js";
import { average } from "./ema.js";
import { adamw, clipGradNorm } from "./optimizer.js";
import type { TrainingState } from "./state.js";

/**
 * Clips the gradient and changes the state's weights, moments, average and loss scale in place. A float16 gradient that
 * overflowed is skipped.
 *
 * @returns the gradient's norm before clipping; null if the update was skipped
 */
export function optimizerUpdate(
  state: TrainingState,
  { gradient, overflowed }: GradientResult,
  { optimizer: options, ema }: SettingsPart<"optimizer" | "ema">,
  layout: TrainableLayout,
): number | null {
  const { weights, averaged, optimizer, lossScale } = state;
  if (overflowed) {
    if (lossScale) recordOverflow(lossScale);
    return null;
  }
  const norm = clipGradNorm(gradient, options.max_grad_norm);
  adamw(weights, gradient, optimizer, {
    learningRate: options.learning_rate,
    beta1: options.beta1,
    beta2: options.beta2,
    epsilon: options.epsilon,
    weightDecay: options.weight_decay,
  });
  if (averaged && ema.decay !== null) average(averaged, weights, ema.decay, optimizer.step);
  requireFiniteParameters(weights, layout, "after the update, the weight");
  if (lossScale) recordUpdate(lossScale);
  return norm;
}
