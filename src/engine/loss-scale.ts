/**
 * Dynamic loss scaling (Micikevicius et al. 2018, "Mixed Precision Training", arXiv 1710.03740, section 3.2). A reward's gradient
 * is far smaller than the smallest float16 number, so the upstream gradient of a float16 VJP is scaled up, and its results are
 * scaled down again. Each call scales the largest element of its own upstream to the loss scale, because the gradient grows and
 * shrinks along the chain and the loss may have any factor.
 */
import { InputError } from "../errors/index.js";

export interface LossScale {
  /** The largest element of a scaled upstream gradient. */
  scale: number;
  /** Updates since the scale last changed. */
  good: number;
  /** Updates skipped in a row. */
  skipped: number;
}

/** A larger upstream would overflow float16 itself. */
export const MAX_SCALE = 2 ** 15;
/** A gradient that overflows with a smaller scale has another cause. */
export const MIN_SCALE = 2 ** -10;
const GROWTH_INTERVAL = 50;
const MAX_SKIPPED = 10;

export function initialLossScale(): LossScale {
  return { scale: 2 ** 8, good: 0, skipped: 0 };
}

/** Records an optimizer update, in place. The scale doubles after 50 updates in a row. */
export function recordUpdate(state: LossScale): void {
  state.skipped = 0;
  state.good += 1;
  if (state.good < GROWTH_INTERVAL || state.scale >= MAX_SCALE) return;
  state.scale *= 2;
  state.good = 0;
}

/**
 * Records a gradient that overflowed, in place: the scale is halved.
 *
 * @throws InputError `not-finite` after too many in a row
 */
export function recordOverflow(state: LossScale): void {
  const { scale } = state;
  state.skipped += 1;
  state.good = 0;
  state.scale = Math.max(MIN_SCALE, scale / 2);
  if (state.skipped < MAX_SKIPPED) return;
  throw new InputError(
    "not-finite",
    `in float16 the gradient was not finite ${state.skipped} times in a row, the last time with a loss scale of ${scale}. Use precision: float32.`,
    { skipped: state.skipped, lossScale: scale },
  );
}

/** The power of two, which rounds nothing, that brings the largest element of `upstream` to the scale or just below. */
export function scaleFactor(scale: number, upstream: Float32Array): number {
  const largest = upstream.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return largest > 0 ? scale * 2 ** -Math.ceil(Math.log2(largest)) : 1;
}

/** A float16 VJP returned infinity or NaN. */
export class Float16Overflow extends Error {}
