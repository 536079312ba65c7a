/**
 * AlignProp (Prabhudesai, Goyal, Pathak & Fragkiadaki 2023, "Aligning Text-to-Image Diffusion Models with Reward
 * Backpropagation", arXiv 2310.03739): the reward's gradient goes back through the whole denoising chain, and the U-Net
 * takes part at the steps that a truncation keeps,
 *
 *     dL/dx_t = a · dL/dx_{t-1} + [kept] · Jᵀ(b · dL/dx_{t-1})        J: the U-Net's Jacobian at x_t
 */
import { z } from "zod";
import { pullback } from "../diffusion/trajectory.js";
import { estimatorKind, type Toolbox } from "./estimator.js";
import { drawMask, earliestKept, truncation, truncationProblems } from "./truncation.js";

export const alignprop = estimatorKind({
  schema: z.strictObject({
    name: z.literal("alignprop"),
    truncation: truncation.prefault({ mode: "per-step" }),
  }),
  problems: ({ truncation }, { sampling }) => truncationProblems(truncation, sampling.steps),
  create: ({ truncation }) => ({
    kind: "update",
    name: "alignprop",
    rewardGradient: true,
    mask: (steps, rng) => drawMask(truncation, steps, rng),
    // dL/dx_t serves earlier kept steps; where only the last step is ever kept, there are none.
    needsDx: (steps) => earliestKept(truncation, steps) < steps - 1,
    learn: learnFromChain,
  }),
});

/** Walks the reward's gradient back through the chain to the steps that the pictures' masks keep. */
export async function learnFromChain(tools: Toolbox): Promise<void> {
  const trajectory = await tools.sample();
  const { dLatents } = await tools.judge(trajectory.final);
  const keep = tools.samples.map(({ mask }) => mask);
  await pullback(tools.steps, tools, trajectory, { dFinal: dLatents, keep });
}
