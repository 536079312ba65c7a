/**
 * Annealed importance guidance (Jena et al. 2024, arXiv 2409.06493): a tuned model's pictures with more of the base model's
 * diversity, at inference alone. As annealed importance sampling goes from one distribution to another, the prediction goes
 * from the base model's at the noise, which decides what a picture shows, to the tuned one's at the picture:
 *
 *     ε̂ = (1 − γ) · ε̂_base + γ · ε̂_tuned        γ_i = (i / (T − 1))^p        i = 0 … T − 1, from the noise on
 *
 * A power p of 0 is the tuned model throughout, 1 a straight line; the larger it is, the longer the base model leads. (The
 * published code divides by T, so that its last step still has a little of the base model.)
 */
import type { Denoiser } from "./trajectory.js";

type Predict = Denoiser["predict"];

/** γ of a step. */
export function tunedShare(step: number, steps: number, power: number): number {
  return steps === 1 ? 1 : (step / (steps - 1)) ** power;
}

/** Where one of the two counts for nothing it is not asked. */
export function annealed(base: Predict, tuned: Predict, steps: number, power: number): Predict {
  return async (x, step) => {
    const share = tunedShare(step, steps, power);
    if (share === 0) return base(x, step);
    if (share === 1) return tuned(x, step);
    const [from, to] = [await base(x, step), await tuned(x, step)];
    return from.map((value, i) => (1 - share) * value + share * (to[i] as number));
  };
}
