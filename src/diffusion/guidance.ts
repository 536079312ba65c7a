import type { Value } from "../graph/value.js";
import { add, concat, mul, slice, sub } from "../ops/index.js";

/** A prompt as the U-Net is told it, the same at every step; `T` is a graph's value, or the numbers themselves. */
export interface Conditioning<T = Value> {
  /** What cross-attention looks at: [b, tokens, width]. */
  readonly text: T;
  /** The prompt as one vector, in Stable Diffusion XL: [b, width]. */
  readonly pooled?: T;
}

/**
 * A U-Net already bound to its weights: latents [b, c, h, w], timestep [1], prompts for n pictures → [n, c, h, w]. With an n of
 * several b, the latents are shared.
 */
export type PredictNoise = (latents: Value, timestep: Value, conditioning: Conditioning) => Value;

/**
 * Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598, equation 6 in the scale convention of Stable Diffusion):
 * ε̂ = ε(x, ∅) + s · (ε(x, c) − ε(x, ∅)). Both branches are one call of the U-Net with twice as many prompts, unconditional half first.
 * At a scale of 1 or less there is no guidance and no unconditional branch, as in diffusers.
 *
 * latents [b, c, h, w], timestep [1], conditional and unconditional for b pictures each → [b, c, h, w]
 */
export function guided(
  predict: PredictNoise,
  latents: Value,
  timestep: Value,
  conditional: Conditioning,
  unconditional: Conditioning,
  scale: number,
): Value {
  if (!isGuided(scale)) return predict(latents, timestep, conditional);
  const batch = latents.shape[0] as number;
  const { pooled } = conditional;
  const both = predict(latents, timestep, {
    text: concat([unconditional.text, conditional.text], 0),
    ...(pooled && unconditional.pooled && { pooled: concat([unconditional.pooled, pooled], 0) }),
  });
  const withoutText = slice(both, 0, 0, batch);
  const withText = slice(both, 0, batch, 2 * batch);
  return add(withoutText, mul(sub(withText, withoutText), scale));
}

export function isGuided(scale: number): boolean {
  return scale > 1;
}
