/**
 * Dynamic loss scaling (Micikevicius et al. 2018, "Mixed Precision Training", arXiv 1710.03740, section 3.2). A reward's
 * gradient is far smaller than what halves hold, so a vector-Jacobian product in float16 gets its upstream scaled up and
 * gives its results scaled down again. Each call brings the largest element of its own upstream to the scale: the gradient
 * grows and shrinks along the chain, and the loss may have any factor.
 */

export interface LossScale {
  /** What the largest element of an upstream is brought to. */
  scale: number;
  /** Updates since the scale last changed. */
  good: number;
  /** Updates skipped one after another. */
  skipped: number;
}

/** Above the largest the upstream itself would be no half; below the least it is no scale that is at fault. */
export const LARGEST_SCALE = 2 ** 15;
export const LEAST_SCALE = 2 ** -10;
const GOOD_UPDATES_TO_GROW = 50;
/** Then training stops. */
export const MOST_SKIPPED = 10;

export function initialLossScale(): LossScale {
  return { scale: 2 ** 8, good: 0, skipped: 0 };
}

/** After an update, in place. */
export function keepScale(state: LossScale): void {
  state.skipped = 0;
  state.good += 1;
  if (state.good < GOOD_UPDATES_TO_GROW || state.scale >= LARGEST_SCALE) return;
  state.scale *= 2;
  state.good = 0;
}

/** After a gradient that was too large for halves, in place. */
export function lowerScale(state: LossScale): void {
  state.skipped += 1;
  state.good = 0;
  state.scale = Math.max(LEAST_SCALE, state.scale / 2);
}

/** The power of two, so that nothing is rounded, that brings the largest element of `upstream` to the scale or just below it. */
export function factorOf(scale: number, upstream: Float32Array): number {
  const largest = upstream.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return largest > 0 ? scale * 2 ** -Math.ceil(Math.log2(largest)) : 1;
}

/** A vector-Jacobian product whose results no half can hold. */
export class HalfOverflow extends Error {}
