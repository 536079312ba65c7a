/**
 * Adjoint Matching (Domingo-Enrich, Drozdzal, Karrer & Chen 2024, "Adjoint Matching: Fine-tuning Flow and Diffusion Generative
 * Models with Memoryless Stochastic Optimal Control", arXiv 2409.08861). The chain with eta = 1 is steered by u,
 *
 *     x_{t-1} = a · x_t + b · output_base(x_t) + σ_t (u_t + z_t),   u_t = b · (output_θ(x_t) − output_base(x_t)) / σ_t
 *
 * and what minimises E[λ L(x_0) + Σ_t ½ |u_t|²] draws pictures from the base model's, each e^{−λ L} times as often: the pull
 * towards the base model that keeps it from overdoing the reward. Instead of differentiating that, u is matched with what the lean
 * adjoint, which is the base model's, says that it should be:
 *
 *     ã_0 = λ ∇L(x_0),   ã_t = (a + b ∂output_base/∂x_t)ᵀ ã_{t-1},   minimise Σ_t ½ |u_t + σ_t ã_{t-1}|²,  x and ã constants
 *
 * Everything is divided by λ here, which leaves a gradient of L's own size: upstream is b²/(λ σ_t²) (output_θ − output_base) + b ã_{t-1}.
 * As long as θ is the base model, it is the gradient of the full chain. A step without noise has no u.
 */
import { z } from "zod";
import type { DdimStep } from "../diffusion/ddim.js";
import { estimatorKind, type Toolbox } from "./estimator.js";

export const adjointMatching = estimatorKind({
  schema: z.strictObject({
    name: z.literal("adjoint-matching"),
    /** λ: what the loss counts for against the distance from the base model, in nats. */
    lambda: z.number().positive().max(1e9).default(1000),
  }),
  problems: (_, { sampling: { eta } }) =>
    eta === 1
      ? []
      : [{ path: [], message: `adjoint-matching needs DDPM's noise, but sampling.eta is ${eta}; set sampling.eta: 1` }],
  create: ({ lambda }) => ({
    kind: "update",
    name: "adjoint-matching",
    rewardGradient: true,
    usesBase: true,
    mask: (steps) => new Array<boolean>(steps).fill(true),
    needsDx: () => true,
    learn: (tools) => learn(tools, lambda),
  }),
});

async function learn(tools: Toolbox, lambda: number): Promise<void> {
  const { steps, total, base: parameters } = tools;
  const pictures = tools.samples.map((_, i) => i);
  const trajectory = await tools.sample({ outputs: true });
  const { dLatents } = await tools.judge(trajectory.final);
  let adjoint = dLatents;
  for (let step = steps.length - 1; step >= 0; step--) {
    const { a, b, sigma } = steps[step] as DdimStep;
    const x = trajectory.latents[step] as Float32Array;
    const output = trajectory.outputs?.[step] as Float32Array;
    const base = await tools.call({ step, x, parameters, wantsDx: true });
    const upstream = adjoint.map((value) => b * value);
    if (sigma > 0) {
      const pull = (b / sigma) ** 2 / (lambda * total);
      const steered = upstream.map((value, j) => value + pull * ((output[j] as number) - (base.output[j] as number)));
      await tools.vjp({ step, pictures, x, output, upstream: steered, wantsDx: false });
    }
    if (step === 0) break;
    const { dx } = await base.back(upstream);
    adjoint = adjoint.map((value, j) => a * value + (dx?.[j] as number));
  }
}
