/**
 * ReFL (Xu et al. 2023, "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation", arXiv
 * 2304.05977, algorithm 1). The chain runs to a late step s, drawn for each image. One jump from there predicts the image that
 * is scored, and the gradient goes through that one U-Net call:
 *
 *     s ~ U{low … high},   x̂_0 = (x_s − √(1 − ᾱ_s) · ε_θ(x_s, s, c)) / √ᾱ_s,   g = ∇_θ L(x̂_0),   x_s a constant
 *
 * The metrics show the rewards of x̂_0.
 */
import { z } from "zod";
import { type DdimStep, predicted } from "../diffusion/ddim.js";
import { take } from "../diffusion/trajectory.js";
import { type EstimatorContext, estimatorKind } from "./estimator.js";

const step = z.int().min(0).max(1_000_000_000).nullable();

export const refl = estimatorKind({
  schema: z.strictObject({
    name: z.literal("refl"),
    /** First step of the range, counted from 0 at the noise. `null`: the last quarter begins there (30 of 40 in the paper). */
    low: step.default(null),
    /** Last step of the range. `null`: the last of the chain (39 of 40). */
    high: step.default(null),
  }),
  problems(settings, { sampling: { steps } }) {
    const { low, high } = range(settings, steps);
    if (high >= steps) {
      return [
        {
          path: ["high"],
          message: `is ${high}, but the last of ${steps} steps is ${steps - 1}; give at most ${steps - 1}`,
          facts: { found: high, with: "sampling.steps", limit: steps - 1 },
        },
      ];
    }
    if (low <= high) return [];
    return [
      {
        path: ["low"],
        message: `is ${low}, above estimator.high; give at most ${high}`,
        facts: { found: low, with: "estimator.high", limit: high },
      },
    ];
  },
  create: (settings) => ({
    kind: "direct",
    name: "refl",
    usesRewardGradient: true,
    mask(steps, rng) {
      const { low, high } = range(settings, steps);
      const drawn = rng.integer(low, high);
      return Array.from({ length: steps }, (_, i) => i === drawn);
    },
    needsDx: () => false,
    addGradient,
  }),
});

function range({ low, high }: { low: number | null; high: number | null }, steps: number) {
  return { low: low ?? Math.floor((steps * 3) / 4), high: high ?? steps - 1 };
}

async function addGradient(context: EstimatorContext): Promise<void> {
  const { samples, latentElements } = context;
  const drawn = samples.map(({ mask }) => mask.indexOf(true));
  const { latents, outputs } = await context.sample({ until: drawn, outputs: true });
  /** The samples that jump from each step, with their latents and U-Net outputs there. */
  const jumps = [...new Set(drawn)].map((step) => {
    const chosen = samples.map((_, i) => i).filter((i) => drawn[i] === step);
    const [x, output] = [latents[step], outputs?.[step]].map((all) =>
      take(all as Float32Array, chosen, latentElements),
    );
    const { sample } = context.steps[step] as DdimStep;
    return { step, chosen, sample, x: x as Float32Array, output: output as Float32Array };
  });
  const jumped = new Float32Array(samples.length * latentElements);
  for (const { chosen, sample, x, output } of jumps) {
    const found = predicted(sample, x, output);
    for (const [n, i] of chosen.entries()) {
      jumped.set(found.subarray(n * latentElements, (n + 1) * latentElements), i * latentElements);
    }
  }
  const { dLatents } = await context.scoreWithGradient(jumped);
  for (const { step, chosen, sample, x, output } of jumps) {
    const upstream = take(dLatents, chosen, latentElements).map((value) => sample.output * value);
    await context.vjp({ step, samples: chosen, x, output, upstream, wantsDx: false });
  }
}
