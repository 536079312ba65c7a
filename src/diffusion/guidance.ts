import type { Value } from "../graph/value.js";
import { add, concat, mul, slice, sub } from "../ops/index.js";

/**
 * A U-Net already bound to its weights: latents [b, c, h, w], timestep [1], text [n, tokens, width] → [n, c, h, w]. With an n
 * of several b, the latents are shared.
 */
export type PredictNoise = (latents: Value, timestep: Value, text: Value) => Value;

/**
 * Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598, equation 6 in the scale convention of Stable Diffusion):
 * ε̂ = ε(x, ∅) + s · (ε(x, c) − ε(x, ∅)). Both branches are one call of the U-Net with twice as many prompts, unconditional half first.
 * At a scale of 1 or less there is no guidance and no unconditional branch, as in diffusers.
 *
 * latents [b, c, h, w], timestep [1], text and unconditional [b, tokens, width] → [b, c, h, w]
 */
export function guided(
  predict: PredictNoise,
  latents: Value,
  timestep: Value,
  text: Value,
  unconditional: Value,
  scale: number,
): Value {
  if (!isGuided(scale)) return predict(latents, timestep, text);
  const batch = latents.shape[0] as number;
  const both = predict(latents, timestep, concat([unconditional, text], 0));
  const withoutText = slice(both, 0, 0, batch);
  const withText = slice(both, 0, batch, 2 * batch);
  return add(withoutText, mul(sub(withText, withoutText), scale));
}

export function isGuided(scale: number): boolean {
  return scale > 1;
}
