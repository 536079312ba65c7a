/**
 * Reward-weighted regression (Peters & Schaal 2007; for diffusion models Lee et al. 2023, "Aligning Text-to-Image Models using
 * Human Feedback", arXiv 2302.12192, and as a baseline in Black et al. 2023, arXiv 2305.13301): the model goes on learning to
 * denoise, from its own pictures, and the more from those that are rewarded more,
 *
 *     wᵢ = N · softmax(Aᵢ / τ),   A the rewards of the step, less their mean, over their deviation
 *     L = mean over pictures and levels t of the chain of wᵢ · mean((ε̂_θ(√ᾱ_t · x_0ᵢ + √(1 − ᾱ_t) · ε, t, c) − ε)²)
 *
 * so a U-Net call's upstream is 2 · w · (ε̂ − ε) · dε̂/d output. ε̂ has the guidance that the pictures were sampled with. The reward
 * needs no gradient.
 */
import { z } from "zod";
import { noised, predicted } from "../diffusion/ddim.js";
import { stack } from "../diffusion/trajectory.js";
import { estimatorKind, type Lesson, type Rewarded, type Toolbox } from "./estimator.js";
import { equalParts, repeated, roundProblems, rounds } from "./rollout.js";

export const rwr = estimatorKind({
  schema: z.strictObject({
    name: z.literal("rwr"),
    ...rounds,
    /** τ, in deviations of the step's rewards: the lower, the more the best pictures count. */
    temperature: z.number().positive().default(0.5),
  }),
  problems: (settings, { batch }) => roundProblems(settings, batch),
  create: ({ updates, inner_epochs, temperature }) => ({
    kind: "round",
    name: "rwr",
    rewardGradient: false,
    minibatches: (pictures) => repeated(equalParts(pictures, updates), inner_epochs),
    weigh: (round) => ({ weights: rewardWeights(round, temperature) }),
    learn,
  }),
});

/** Their mean is 1. */
export function rewardWeights(round: readonly Rewarded[], temperature: number): number[] {
  const rewards = round.map(({ reward }) => reward);
  const mean = rewards.reduce((sum, value) => sum + value, 0) / rewards.length;
  const deviation = Math.sqrt(rewards.reduce((sum, value) => sum + (value - mean) ** 2, 0) / rewards.length) + 1e-6;
  const highest = Math.max(...rewards);
  const powers = rewards.map((reward) => Math.exp((reward - highest) / deviation / temperature));
  const total = powers.reduce((sum, value) => sum + value, 0);
  return powers.map((power) => (power * rewards.length) / total);
}

async function learn(tools: Toolbox, { trajectory, weights, update }: Lesson): Promise<number[]> {
  const { steps, samples, size, total } = tools;
  const losses = new Array<number>(samples.length).fill(0);
  for (const [t, step] of steps.entries()) {
    const noise = stack(samples.map((sample) => sample.rng(update, t).normals(size)));
    const x = noised(step, trajectory.final, noise);
    const call = await tools.call({ step: t, x });
    const upstream = predicted(step.noise, x, call.output);
    for (let j = 0; j < upstream.length; j++) {
      const i = Math.floor(j / size);
      const weight = (weights[i] as number) / (size * steps.length);
      const error = (upstream[j] as number) - (noise[j] as number);
      losses[i] = (losses[i] as number) + weight * error ** 2;
      upstream[j] = (2 * weight * error * step.noise.output) / total;
    }
    await call.back(upstream);
  }
  return losses;
}
