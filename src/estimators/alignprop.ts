/**
 * AlignProp (Prabhudesai, Goyal, Pathak & Fragkiadaki 2023, "Aligning Text-to-Image Diffusion Models with Reward
 * Backpropagation", arXiv 2310.03739). The reward's gradient goes back through the whole denoising chain, and the U-Net is
 * differentiated at the steps that a truncation keeps:
 *
 *     dL/dx_t = a · dL/dx_{t-1} + [kept] · Jᵀ(b · dL/dx_{t-1})        J is the U-Net's Jacobian at x_t
 */
import { z } from "zod";
import { pullback } from "../diffusion/trajectory.js";
import { type EstimatorContext, estimatorKind } from "./estimator.js";
import { drawMask, earliestKept, truncation, truncationProblems } from "./truncation.js";

export const alignprop = estimatorKind({
  schema: z.strictObject({
    name: z.literal("alignprop"),
    truncation: truncation.prefault({ mode: "per-step" }),
  }),
  problems: ({ truncation }, { sampling }) => truncationProblems(truncation, sampling.steps),
  create: ({ truncation }) => ({
    kind: "direct",
    name: "alignprop",
    usesRewardGradient: true,
    mask: (steps, rng) => drawMask(truncation, steps, rng),
    // Only an earlier kept step needs dL/dx_t.
    needsDx: (steps) => earliestKept(truncation, steps) < steps - 1,
    addGradient: addChainGradient,
  }),
});

/** Back-propagates the reward through the chain, to the U-Net calls that the masks keep. */
export async function addChainGradient(context: EstimatorContext): Promise<void> {
  const trajectory = await context.sample();
  const { dLatents } = await context.scoreWithGradient(trajectory.final);
  const keep = context.samples.map(({ mask }) => mask);
  await pullback(context.steps, context, trajectory, { dFinal: dLatents, keep });
}
