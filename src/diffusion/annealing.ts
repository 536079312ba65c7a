/**
 * Annealed importance guidance (Jena et al. 2024, arXiv 2409.06493) restores diversity that a fine-tuned model has
 * lost. It is applied at inference only. As in annealed importance sampling, the prediction moves from one distribution
 * to another: from the base model's in the early steps, which decide the content of the image, to the tuned model's in
 * the last ones:
 *
 *     ε̂ = (1 − γ) · ε̂_base + γ · ε̂_tuned        γ_i = (i / (T − 1))^p        i = 0 … T − 1, starting at the noise
 *
 * With power p = 0, the tuned model predicts every step. With p = 1, γ is linear. With a larger p, the base model
 * dominates for longer. (The published code divides by T instead of T − 1, so its last step still includes some of the
 * base model.)
 */
import type { Denoiser } from "./trajectory.js";

type Predict = Denoiser["predict"];

/** The weight γ of the tuned model at a step; the first step is 0. */
export function tunedShare(step: number, steps: number, power: number): number {
  return steps === 1 ? 1 : (step / (steps - 1)) ** power;
}

/** Mixes two predictions. A model whose weight is 0 at a step is not evaluated. */
export function annealed(base: Predict, tuned: Predict, steps: number, power: number): Predict {
  return async (x, step) => {
    const share = tunedShare(step, steps, power);
    if (share === 0) return base(x, step);
    if (share === 1) return tuned(x, step);
    const [from, to] = [await base(x, step), await tuned(x, step)];
    return from.map((value, i) => (1 - share) * value + share * (to[i] as number));
  };
}
