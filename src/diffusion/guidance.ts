import type { Value } from "../graph/value.js";
import { add, concat, mul, slice, sub } from "../ops/index.js";

/**
 * A batch of encoded prompts for the U-Net, the same at every step. `T` is a graph value, or the numbers themselves.
 */
export interface Conditioning<T = Value> {
  /** The context of cross-attention: [b, tokens, width]. */
  readonly text: T;
  /** The pooled prompt of Stable Diffusion XL: [b, width]. */
  readonly pooled?: T;
}

/**
 * A U-Net with its weights: latents [b, c, h, w], timestep [1], n prompts → [n, c, h, w]. If n is a multiple of b, each
 * block of b prompts uses the same latents.
 */
export type PredictNoise = (latents: Value, timestep: Value, conditioning: Conditioning) => Value;

export interface GuidedInputs {
  readonly latents: Value;
  readonly timestep: Value;
  readonly conditional: Conditioning;
  readonly unconditional: Conditioning;
  /** The guidance scale s. */
  readonly scale: number;
}

/**
 * Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598, equation 6 in the scale convention of Stable
 * Diffusion): ε̂ = ε(x, ∅) + s · (ε(x, c) − ε(x, ∅)). One call of the U-Net computes both branches with twice as many
 * prompts, the unconditional ones first. At a scale of 1 or less there is no guidance and no unconditional branch, as
 * in diffusers.
 *
 * latents [b, c, h, w], timestep [1], b conditional and b unconditional prompts → [b, c, h, w]
 */
export function guided(
  predict: PredictNoise,
  { latents, timestep, conditional, unconditional, scale }: GuidedInputs,
): Value {
  if (!isGuided(scale)) return predict(latents, timestep, conditional);
  const batch = latents.shape[0] as number;
  const { pooled } = conditional;
  const both = predict(latents, timestep, {
    text: concat([unconditional.text, conditional.text], 0),
    ...(pooled && unconditional.pooled && { pooled: concat([unconditional.pooled, pooled], 0) }),
  });
  const withoutText = slice(both, 0, [0, batch]);
  const withText = slice(both, 0, [batch, 2 * batch]);
  return add(withoutText, mul(sub(withText, withoutText), scale));
}

/** Returns true if this guidance scale needs the unconditional branch. */
export function isGuided(scale: number): boolean {
  return scale > 1;
}
