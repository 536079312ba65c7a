/**
 * DDPO (Black, Janner, Du, Kostrikov & Levine 2023, "Training Diffusion Models with Reinforcement Learning", arXiv 2305.13301,
 * the importance-sampled estimator DDPO_IS) as its PyTorch release implements it. The chain is a policy and its latents are the
 * actions:
 *
 *     p_θ(x_{t-1} | x_t, c) = N(μ_θ, σ_t²),   μ_θ = a · x_t + b · output_θ(x_t, t, c)          DDIM with eta = 1
 *     r = exp(log p_θ − log p_old),   log p the mean over the elements of x_{t-1}
 *     L = mean over samples and steps of max(−A · r, −A · clip(r, 1 − ε, 1 + ε))
 *
 * The upstream of a U-Net call is therefore b · dL/dμ = −A · r · b · (x_{t-1} − μ_θ) / (σ_t² · elements), and 0 where the ratio is
 * clipped. The advantage A is the reward minus the mean and divided by the standard deviation of the last rewards of the same
 * prompt. The reward needs no gradient.
 *
 * The variance of this upstream is b² / σ_t². It is by far the largest at the last steps, which have hardly any noise, while the
 * reward depends most on the first steps. `weighting: noise` multiplies the loss of a step by σ_t divided by the mean of all σ (He
 * et al. 2025, "TempFlow-GRPO", arXiv 2508.04324, noise-aware weighting).
 */
import { z } from "zod";
import type { DdimStep } from "../diffusion/ddim.js";
import { type EstimatorContext, estimatorKind, type ScoredPrompt, type TrajectoryBatch } from "./estimator.js";
import { equalParts, repeated, rolloutProblems, rolloutSettings, singleSampleProblems } from "./rollout.js";

const schema = z.strictObject({
  name: z.literal("ddpo"),
  ...rolloutSettings,
  /** ε: the ratio is clipped to 1 − ε … 1 + ε. */
  clip_range: z.number().positive().max(1).default(1e-4),
  /** Largest absolute value of an advantage. */
  advantage_clip: z.number().positive().default(5),
  /** Number of rewards stored per prompt. `0` stores none: the advantage is relative to all samples of the step. */
  buffer_size: z.int().min(0).max(10_000).default(32),
  /** A prompt with fewer stored rewards uses the statistics of all samples of the step. */
  min_count: z.int().min(1).max(10_000).default(16),
  /** Weight of a denoising step in the loss: the same for all, or proportional to its noise. */
  weighting: z.enum(["equal", "noise"]).default("equal"),
});

type Ddpo = z.output<typeof schema>;

export const ddpo = estimatorKind({
  schema,
  problems: (settings, { sampling, batch }) => [
    ...(sampling.eta === 0
      ? [
          {
            path: [],
            message: "ddpo needs the noise of each denoising step, but sampling.eta is 0; set sampling.eta: 1",
            facts: { setting: "sampling.eta", with: "estimator", found: 0, expected: 1 },
          },
        ]
      : []),
    // A prompt that is compared with its own earlier rewards needs no other sample.
    ...(settings.buffer_size < 2 || settings.min_count > 2
      ? singleSampleProblems("ddpo", batch, ", or estimator.min_count to 2")
      : []),
    ...rolloutProblems(settings, batch),
  ],
  create: (settings) => ({
    kind: "rollout",
    name: "ddpo",
    usesRewardGradient: false,
    minibatches: (samples) => repeated(equalParts(samples, settings.updates), settings.inner_epochs),
    weigh: (samples, state) => advantages(samples, rewardBuffer.parse(state ?? {}), settings),
    addGradient: (context, batch) => addGradient(context, batch, settings),
  }),
});

/** The last rewards of each prompt, oldest first. */
const rewardBuffer = z.record(z.string(), z.array(z.number()));

/** The advantage of each sample, and the reward buffer with these samples in it. */
export function advantages(samples: readonly ScoredPrompt[], before: z.output<typeof rewardBuffer>, settings: Ddpo) {
  const { buffer_size, min_count, advantage_clip } = settings;
  const buffer = new Map(Object.entries(before));
  for (const { prompt, reward } of buffer_size > 0 ? samples : []) {
    buffer.set(prompt, [...(buffer.get(prompt) ?? []), reward].slice(-buffer_size));
  }
  const all = samples.map(({ reward }) => reward);
  const weights = samples.map(({ prompt, reward }) => {
    const own = buffer.get(prompt) ?? [];
    const { mean, deviation } = statistics(own.length < min_count ? all : own);
    return Math.min(advantage_clip, Math.max(-advantage_clip, (reward - mean) / (deviation + 1e-6)));
  });
  return { weights, state: Object.fromEntries(buffer) };
}

function statistics(values: readonly number[]) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return { mean, deviation: Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length) };
}

/** The weight of each step. Steps with noise have a mean weight of 1; a step without noise has no policy, and weight 0. */
export function stepWeights(steps: readonly Pick<DdimStep, "sigma">[], weighting: Ddpo["weighting"]): number[] {
  const own = steps.map(({ sigma }) => (weighting === "noise" ? sigma : Math.sign(sigma)));
  const mean = own.reduce((sum, weight) => sum + weight, 0) / own.filter((weight) => weight > 0).length;
  return own.map((weight) => weight / mean);
}

async function addGradient(
  context: EstimatorContext,
  { trajectory, weights }: TrajectoryBatch,
  { clip_range, weighting }: Ddpo,
) {
  const { steps, samples, latentElements, globalBatchSize } = context;
  // A step to which DDIM adds no noise, such as the last one if its alpha-bar is 1, has no policy.
  const random = [...steps.keys()].filter((t) => (steps[t] as DdimStep).sigma > 0);
  const counts = stepWeights(steps, weighting);
  const noises = samples.map((sample) => sample.noise());
  const losses = new Array<number>(samples.length).fill(0);
  for (const t of random) {
    const { a, b, sigma } = steps[t] as DdimStep;
    const count = (counts[t] as number) / random.length;
    const x = trajectory.latents[t] as Float32Array;
    const next = trajectory.latents[t + 1] ?? trajectory.final;
    const call = await context.callUnet({ step: t, x });
    const upstream = new Float32Array(x.length);
    for (const [i, noise] of noises.entries()) {
      // In units of σ: the noise that the step added, and the noise that would lead to the same latents now.
      const then = noise.step(t);
      const now = new Float32Array(latentElements);
      let logRatio = 0;
      for (let j = 0; j < latentElements; j++) {
        const at = i * latentElements + j;
        now[j] = ((next[at] as number) - a * (x[at] as number) - b * (call.output[at] as number)) / sigma;
        logRatio += ((then[j] as number) ** 2 - (now[j] as number) ** 2) / (2 * latentElements);
      }
      const advantage = weights[i] as number;
      const ratio = Math.exp(logRatio);
      const clipped = Math.min(1 + clip_range, Math.max(1 - clip_range, ratio));
      losses[i] = (losses[i] as number) + count * Math.max(-advantage * ratio, -advantage * clipped);
      if (-advantage * ratio < -advantage * clipped) continue;
      const slope = (-advantage * ratio * b * count) / (sigma * latentElements * globalBatchSize);
      for (let j = 0; j < latentElements; j++) upstream[i * latentElements + j] = slope * (now[j] as number);
    }
    await call.backward(upstream);
  }
  return losses;
}
