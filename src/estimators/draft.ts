/**
 * DRaFT and DRaFT-K (Clark, Vicol, Swersky & Fleet 2023, "Directly Fine-Tuning Diffusion Models on Differentiable Rewards",
 * arXiv 2309.17400). The reward is differentiated through the last K steps of the chain; plain DRaFT takes all of them:
 *
 *     g = ∇_θ L(x_0),   x_{t-1} = DDIM(x_t, ε_θ(x_t, t, c)),   x_K a constant
 *
 * AlignProp with a fixed truncation gives the same gradient. It also follows DDIM's linear term to earlier latents, which
 * changes nothing because no earlier call is differentiated.
 */
import { z } from "zod";
import { addChainGradient } from "./alignprop.js";
import { estimatorKind } from "./estimator.js";

export const draft = estimatorKind({
  schema: z.strictObject({
    name: z.literal("draft"),
    /** Number of differentiated steps at the end of the chain; `null`: all. */
    k: z.int().min(1).max(1_000_000_000).nullable().default(null),
  }),
  problems: ({ k }, { sampling: { steps } }) =>
    k !== null && k > steps
      ? [
          {
            path: ["k"],
            message: `is ${k}, but sampling.steps is ${steps}; give at most ${steps}, or sample more steps`,
            facts: { found: k, with: "sampling.steps", limit: steps },
          },
        ]
      : [],
  create: ({ k }) => ({
    kind: "direct",
    name: "draft",
    usesRewardGradient: true,
    mask: (steps) => Array.from({ length: steps }, (_, i) => i >= steps - (k ?? steps)),
    needsDx: (steps) => (k ?? steps) > 1,
    addGradient: addChainGradient,
  }),
});
