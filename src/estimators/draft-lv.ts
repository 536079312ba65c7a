/**
 * DRaFT-LV (Clark, Vicol, Swersky & Fleet 2023, arXiv 2309.17400, section "low-variance estimator"): DRaFT-1, whose gradient
 * is that of the last step alone, with more of it from the same picture. x_0 is noised again to the level of the last step, denoised
 * by one call of the U-Net, and rewarded:
 *
 *     x_1ⁱ = √ᾱ_1 · x_0 + √(1 − ᾱ_1) · zⁱ,   zⁱ ~ N(0, 1)
 *     g = (∇_θ L(x_0) + Σᵢ ∇_θ L(x̂_0(x_1ⁱ, ε_θ(x_1ⁱ)))) / (1 + n)
 *
 * x_0 is a constant in the second line. Each noise costs a call of the U-Net and of the reward, not a chain.
 */
import { z } from "zod";
import { type DdimStep, noised, predicted } from "../diffusion/ddim.js";
import { stack } from "../diffusion/trajectory.js";
import { estimatorKind, type Toolbox } from "./estimator.js";

export const draftLv = estimatorKind({
  schema: z.strictObject({
    name: z.literal("draft-lv"),
    /** How often each picture is noised again. */
    noises: z.int().min(1).max(1000).default(2),
  }),
  create: ({ noises }) => ({
    kind: "update",
    name: "draft-lv",
    rewardGradient: true,
    mask: (steps) => Array.from({ length: steps }, (_, i) => i === steps - 1),
    needsDx: () => false,
    learn: (tools) => learn(tools, noises),
  }),
});

async function learn(tools: Toolbox, noises: number): Promise<void> {
  const { steps, samples } = tools;
  const step = steps.length - 1;
  const last = steps[step] as DdimStep;
  const share = 1 / (1 + noises);
  const trajectory = await tools.sample({ outputs: true });
  const { dLatents } = await tools.judge(trajectory.final);
  await tools.vjp({
    step,
    pictures: samples.map((_, i) => i),
    x: trajectory.latents[step] as Float32Array,
    output: trajectory.outputs?.[step],
    upstream: dLatents.map((value) => share * last.b * value),
    wantsDx: false,
  });
  for (let n = 0; n < noises; n++) {
    const noise = stack(samples.map((sample) => sample.rng(n).normals(tools.size)));
    const x = noised(last, trajectory.final, noise);
    const call = await tools.call({ step, x });
    const again = await tools.judge(predicted(last.sample, x, call.output));
    await call.back(again.dLatents.map((value) => share * last.sample.output * value));
  }
}
