/**
 * DRaFT and DRaFT-K (Clark, Vicol, Swersky & Fleet 2023, "Directly Fine-Tuning Diffusion Models on Differentiable Rewards",
 * arXiv 2309.17400): the gradient of the reward through the last K steps of the chain, which DRaFT takes as they all are,
 *
 *     g = ∇_θ L(x_0),   x_{t-1} = DDIM(x_t, ε_θ(x_t, t, c)),   x_K a constant
 *
 * AlignProp with a fixed truncation is the same but for DDIM's linear term, which it also follows to earlier latents, where
 * nothing learns.
 */
import { z } from "zod";
import { learnFromChain } from "./alignprop.js";
import { estimatorKind } from "./estimator.js";

export const draft = estimatorKind({
  schema: z.strictObject({
    name: z.literal("draft"),
    /** The steps at the chain's end whose gradient is taken; `null`: all of them. */
    k: z.int().min(1).max(1_000_000_000).nullable().default(null),
  }),
  problems: ({ k }, { sampling: { steps } }) =>
    k !== null && k > steps
      ? [
          {
            path: ["k"],
            message: `is ${k}, but sampling.steps is ${steps}; give at most ${steps}, or sample more steps`,
          },
        ]
      : [],
  create: ({ k }) => ({
    kind: "update",
    name: "draft",
    rewardGradient: true,
    mask: (steps) => Array.from({ length: steps }, (_, i) => i >= steps - (k ?? steps)),
    needsDx: (steps) => (k ?? steps) > 1,
    learn: learnFromChain,
  }),
});
