/**
 * AlignProp (Prabhudesai, Goyal, Pathak & Fragkiadaki 2023, "Aligning Text-to-Image Diffusion Models with Reward
 * Backpropagation", arXiv 2310.03739): the reward's gradient goes back through the whole denoising chain, and the U-Net
 * takes part at the steps that a truncation keeps. With the last K steps kept it is DRaFT-K (arXiv 2309.17400).
 */
import { pullback } from "../../diffusion/trajectory.js";
import type { TruncationSettings } from "../settings.js";
import type { Estimator } from "./estimator.js";
import { drawMask, earliestKept } from "./truncation.js";

export function alignprop(truncation: TruncationSettings): Estimator {
  return {
    name: "alignprop",
    mask: (steps, rng) => drawMask(truncation, steps, rng),
    // dL/dx_t serves earlier kept steps; where only the last step is ever kept, there are none.
    needsDx: (steps) => earliestKept(truncation, steps) < steps - 1,
    accumulate: ({ steps, vjp, trajectory }, dFinal, keep, gradient) =>
      pullback(steps, { vjp }, trajectory, dFinal, keep, gradient),
  };
}
