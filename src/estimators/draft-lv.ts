/**
 * DRaFT-LV (Clark, Vicol, Swersky & Fleet 2023, arXiv 2309.17400, section "low-variance estimator"). DRaFT-1 differentiates the
 * last step only; this estimator averages several such gradients per image to lower their variance. x_0 is noised again to
 * the level of the last step, denoised by one U-Net call, and scored:
 *
 *     x_1ⁱ = √ᾱ_1 · x_0 + √(1 − ᾱ_1) · zⁱ,   zⁱ ~ N(0, 1)
 *     g = (∇_θ L(x_0) + Σᵢ ∇_θ L(x̂_0(x_1ⁱ, ε_θ(x_1ⁱ)))) / (1 + n)
 *
 * x_0 is a constant in the second line. Each noise costs one call of the U-Net and of the reward instead of a whole chain.
 */
import { z } from "zod";
import { type DdimStep, noised, predicted } from "../diffusion/ddim.js";
import { stack } from "../diffusion/trajectory.js";
import { type EstimatorContext, estimatorKind } from "./estimator.js";

export const draftLv = estimatorKind({
  schema: z.strictObject({
    name: z.literal("draft-lv"),
    /** Number of times that each image is noised again. */
    noises: z.int().min(1).max(1000).default(2),
  }),
  create: ({ noises }) => ({
    kind: "direct",
    name: "draft-lv",
    usesRewardGradient: true,
    mask: (steps) => Array.from({ length: steps }, (_, i) => i === steps - 1),
    needsDx: () => false,
    addGradient: (context) => addGradient(context, noises),
  }),
});

async function addGradient(context: EstimatorContext, noises: number): Promise<void> {
  const { steps, samples } = context;
  const step = steps.length - 1;
  const last = steps[step] as DdimStep;
  const share = 1 / (1 + noises);
  const trajectory = await context.sample({ outputs: true });
  const { dLatents } = await context.scoreWithGradient(trajectory.final);
  await context.vjp({
    step,
    samples: samples.map((_, i) => i),
    x: trajectory.latents[step] as Float32Array,
    output: trajectory.outputs?.[step],
    upstream: dLatents.map((value) => share * last.b * value),
    wantsDx: false,
  });
  for (let n = 0; n < noises; n++) {
    const noise = stack(samples.map((sample) => sample.rng(n).normals(context.latentElements)));
    const x = noised(last, trajectory.final, noise);
    const call = await context.callUnet({ step, x });
    const again = await context.scoreWithGradient(predicted(last.sample, x, call.output));
    await call.backward(again.dLatents.map((value) => share * last.sample.output * value));
  }
}
