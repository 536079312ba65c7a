/**
 * Reward-weighted regression (Peters & Schaal 2007; for diffusion models Lee et al. 2023, "Aligning Text-to-Image Models using
 * Human Feedback", arXiv 2302.12192; a baseline in Black et al. 2023, arXiv 2305.13301). The model is trained with the denoising
 * loss on its own images, weighted by their rewards:
 *
 *     wᵢ = N · softmax(Aᵢ / τ),   A: the rewards of the step, normalized to mean 0 and deviation 1
 *     L = mean over images and noise levels t of wᵢ · mean((ε̂_θ(√ᾱ_t · x_0ᵢ + √(1 − ᾱ_t) · ε, t, c) − ε)²)
 *
 * The upstream of a U-Net call is 2 · w · (ε̂ − ε) · dε̂/d output. ε̂ uses the guidance scale that the images were sampled with. The
 * reward needs no gradient.
 */
import { z } from "zod";
import { noised, predicted } from "../diffusion/ddim.js";
import { stack } from "../diffusion/trajectory.js";
import { type EstimatorContext, estimatorKind, type ScoredPrompt, type TrajectoryBatch } from "./estimator.js";
import { equalParts, repeated, rolloutProblems, rolloutSettings, singleSampleProblems } from "./rollout.js";

export const rwr = estimatorKind({
  schema: z.strictObject({
    name: z.literal("rwr"),
    ...rolloutSettings,
    /** τ, in standard deviations of the step's rewards. A lower value gives more weight to the best images. */
    temperature: z.number().positive().default(0.5),
  }),
  problems: (settings, { batch }) => [...singleSampleProblems("rwr", batch), ...rolloutProblems(settings, batch)],
  create: ({ updates, inner_epochs, temperature }) => ({
    kind: "rollout",
    name: "rwr",
    usesRewardGradient: false,
    minibatches: (samples) => repeated(equalParts(samples, updates), inner_epochs),
    weigh: (samples) => ({ weights: rewardWeights(samples, temperature) }),
    addGradient,
  }),
});

/** A weight for each sample, with a mean of 1. */
export function rewardWeights(samples: readonly ScoredPrompt[], temperature: number): number[] {
  const rewards = samples.map(({ reward }) => reward);
  const mean = rewards.reduce((sum, value) => sum + value, 0) / rewards.length;
  const deviation = Math.sqrt(rewards.reduce((sum, value) => sum + (value - mean) ** 2, 0) / rewards.length) + 1e-6;
  const highest = Math.max(...rewards);
  const powers = rewards.map((reward) => Math.exp((reward - highest) / deviation / temperature));
  const total = powers.reduce((sum, value) => sum + value, 0);
  return powers.map((power) => (power * rewards.length) / total);
}

async function addGradient(
  context: EstimatorContext,
  { trajectory, weights, update }: TrajectoryBatch,
): Promise<number[]> {
  const { steps, samples, latentElements, globalBatchSize } = context;
  const losses = new Array<number>(samples.length).fill(0);
  for (const [t, step] of steps.entries()) {
    const noise = stack(samples.map((sample) => sample.rng(update, t).normals(latentElements)));
    const x = noised(step, trajectory.final, noise);
    const call = await context.callUnet({ step: t, x });
    const upstream = predicted(step.noise, x, call.output);
    for (let j = 0; j < upstream.length; j++) {
      const i = Math.floor(j / latentElements);
      const weight = (weights[i] as number) / (latentElements * steps.length);
      const error = (upstream[j] as number) - (noise[j] as number);
      losses[i] = (losses[i] as number) + weight * error ** 2;
      upstream[j] = (2 * weight * error * step.noise.output) / globalBatchSize;
    }
    await call.backward(upstream);
  }
  return losses;
}
