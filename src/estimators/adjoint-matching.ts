/**
 * Adjoint Matching (Domingo-Enrich, Drozdzal, Karrer & Chen 2024, "Adjoint Matching: Fine-tuning Flow and Diffusion Generative
 * Models with Memoryless Stochastic Optimal Control", arXiv 2409.08861). The fine-tuned chain with eta = 1 is the base model's
 * chain with a control u:
 *
 *     x_{t-1} = a · x_t + b · output_base(x_t) + σ_t (u_t + z_t),   u_t = b · (output_θ(x_t) − output_base(x_t)) / σ_t
 *
 * The control that minimizes E[λ L(x_0) + Σ_t ½ |u_t|²] samples from the base model's distribution tilted by e^{−λ L}, so it stays
 * close to the base model. Instead of differentiating that objective, u is regressed on the lean adjoint ã, which is computed
 * with the base model:
 *
 *     ã_0 = λ ∇L(x_0),   ã_t = (a + b ∂output_base/∂x_t)ᵀ ã_{t-1},   minimize Σ_t ½ |u_t + σ_t ã_{t-1}|²,  x and ã constants
 *
 * The code divides everything by λ, so that the gradient has the size of L's: the upstream of a call is
 * b²/(λ σ_t²) (output_θ − output_base) + b ã_{t-1}. While θ is still the base model, this is the gradient of the full chain. A step
 * without noise has no control.
 */
import { z } from "zod";
import type { DdimStep } from "../diffusion/ddim.js";
import { type EstimatorContext, estimatorKind } from "./estimator.js";

export const adjointMatching = estimatorKind({
  schema: z.strictObject({
    name: z.literal("adjoint-matching"),
    /** λ: weight of the loss against the KL divergence from the base model, in nats. */
    lambda: z.number().positive().max(1e9).default(1000),
  }),
  problems: (_, { sampling: { eta } }) =>
    eta === 1
      ? []
      : [
          {
            path: [],
            message: `adjoint-matching needs DDPM's noise, but sampling.eta is ${eta}; set sampling.eta: 1`,
            facts: { setting: "sampling.eta", with: "estimator", found: eta, expected: 1 },
          },
        ],
  create: ({ lambda }) => ({
    kind: "direct",
    name: "adjoint-matching",
    usesRewardGradient: true,
    usesBaseModel: true,
    mask: (steps) => new Array<boolean>(steps).fill(true),
    needsDx: () => true,
    addGradient: (context) => addGradient(context, lambda),
  }),
});

async function addGradient(context: EstimatorContext, lambda: number): Promise<void> {
  const { steps, globalBatchSize, baseParameters: parameters } = context;
  const samples = context.samples.map((_, i) => i);
  const trajectory = await context.sample({ outputs: true });
  const { dLatents } = await context.scoreWithGradient(trajectory.final);
  let adjoint = dLatents;
  for (let step = steps.length - 1; step >= 0; step--) {
    const { a, b, sigma } = steps[step] as DdimStep;
    const x = trajectory.latents[step] as Float32Array;
    const output = trajectory.outputs?.[step] as Float32Array;
    const base = await context.callUnet({ step, x, parameters, wantsDx: true });
    const upstream = adjoint.map((value) => b * value);
    if (sigma > 0) {
      const pull = (b / sigma) ** 2 / (lambda * globalBatchSize);
      const steered = upstream.map((value, j) => value + pull * ((output[j] as number) - (base.output[j] as number)));
      await context.vjp({ step, samples, x, output, upstream: steered, wantsDx: false });
    }
    if (step === 0) break;
    const { dx } = await base.backward(upstream);
    adjoint = adjoint.map((value, j) => a * value + (dx?.[j] as number));
  }
}
