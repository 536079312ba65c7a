/**
 * DDPO (Black, Janner, Du, Kostrikov & Levine 2023, "Training Diffusion Models with Reinforcement Learning", arXiv 2305.13301,
 * the importance-sampled estimator DDPO_IS) as its PyTorch release runs it: the chain is a policy whose actions are its latents,
 *
 *     p_θ(x_{t-1} | x_t, c) = N(μ_θ, σ_t²),   μ_θ = a · x_t + b · output_θ(x_t, t, c)          DDIM with eta = 1
 *     r = exp(log p_θ − log p_old),   log p the mean over the elements of x_{t-1}
 *     L = mean over pictures and steps of max(−A · r, −A · clip(r, 1 − ε, 1 + ε))
 *
 * so a U-Net call's upstream is b · dL/dμ = −A · r · b · (x_{t-1} − μ_θ) / (σ_t² · elements), and 0 where the clip holds. A is the
 * reward less its prompt's mean, over its deviation, both of the last rewards of that prompt. The reward needs no gradient.
 *
 * The variance of that upstream is b² / σ_t², which the last steps, with hardly any noise, have by far the most of, while the
 * reward hangs on the first. `weighting: noise` multiplies a step's loss by its σ_t over their mean (He et al. 2025,
 * "TempFlow-GRPO", arXiv 2508.04324, noise-aware weighting).
 */
import { z } from "zod";
import type { DdimStep } from "../diffusion/ddim.js";
import { estimatorKind, type Lesson, type Rewarded, type Toolbox } from "./estimator.js";
import { equalParts, repeated, roundProblems, rounds } from "./rollout.js";

const schema = z.strictObject({
  name: z.literal("ddpo"),
  ...rounds,
  /** ε: a ratio that leaves 1 − ε … 1 + ε has no gradient in that direction. */
  clip_range: z.number().positive().max(1).default(1e-4),
  /** The largest advantage, either way. */
  advantage_clip: z.number().positive().default(5),
  /** Rewards of a prompt that are remembered; `0`: none, and the advantage is over the whole round. */
  buffer_size: z.int().min(0).max(10_000).default(32),
  /** As many of a prompt make statistics of its own; below, it has the round's. */
  min_count: z.int().min(1).max(10_000).default(16),
  /** What the steps of a chain count for: all the same, or each in proportion to its noise. */
  weighting: z.enum(["equal", "noise"]).default("equal"),
});

type Ddpo = z.output<typeof schema>;

export const ddpo = estimatorKind({
  schema,
  problems: (settings, { sampling, batch }) => [
    ...(sampling.eta === 0
      ? [{ path: [], message: "ddpo learns from the noise of each step, but sampling.eta is 0; set sampling.eta: 1" }]
      : []),
    ...roundProblems(settings, batch),
  ],
  create: (settings) => ({
    kind: "round",
    name: "ddpo",
    rewardGradient: false,
    minibatches: (pictures) => repeated(equalParts(pictures, settings.updates), settings.inner_epochs),
    weigh: (round, memory) => advantages(round, remembered.parse(memory ?? {}), settings),
    learn: (tools, lesson) => learn(tools, lesson, settings),
  }),
});

/** The last rewards of each prompt, the newest last. */
const remembered = z.record(z.string(), z.array(z.number()));

export function advantages(round: readonly Rewarded[], before: z.output<typeof remembered>, settings: Ddpo) {
  const { buffer_size, min_count, advantage_clip } = settings;
  const memory = new Map(Object.entries(before));
  for (const { prompt, reward } of buffer_size > 0 ? round : []) {
    memory.set(prompt, [...(memory.get(prompt) ?? []), reward].slice(-buffer_size));
  }
  const all = round.map(({ reward }) => reward);
  const weights = round.map(({ prompt, reward }) => {
    const own = memory.get(prompt) ?? [];
    const { mean, deviation } = statistics(own.length < min_count ? all : own);
    return Math.min(advantage_clip, Math.max(-advantage_clip, (reward - mean) / (deviation + 1e-6)));
  });
  return { weights, memory: Object.fromEntries(memory) };
}

function statistics(values: readonly number[]) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return { mean, deviation: Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length) };
}

/** What each step counts for. The mean is 1 over the steps that have noise; the others have no policy, and count for nothing. */
export function stepWeights(steps: readonly Pick<DdimStep, "sigma">[], weighting: Ddpo["weighting"]): number[] {
  const own = steps.map(({ sigma }) => (weighting === "noise" ? sigma : Math.sign(sigma)));
  const mean = own.reduce((sum, weight) => sum + weight, 0) / own.filter((weight) => weight > 0).length;
  return own.map((weight) => weight / mean);
}

async function learn(tools: Toolbox, { trajectory, weights }: Lesson, { clip_range, weighting }: Ddpo) {
  const { steps, samples, size, total } = tools;
  // Where DDIM adds no noise, as at the end of a chain whose last alpha-bar is 1, there is no policy.
  const random = [...steps.keys()].filter((t) => (steps[t] as DdimStep).sigma > 0);
  const counts = stepWeights(steps, weighting);
  const noises = samples.map((sample) => sample.noise());
  const losses = new Array<number>(samples.length).fill(0);
  for (const t of random) {
    const { a, b, sigma } = steps[t] as DdimStep;
    const count = (counts[t] as number) / random.length;
    const x = trajectory.latents[t] as Float32Array;
    const next = trajectory.latents[t + 1] ?? trajectory.final;
    const call = await tools.call({ step: t, x });
    const upstream = new Float32Array(x.length);
    for (const [i, noise] of noises.entries()) {
      // In units of σ: what the step added when it was taken, and what it would have to have added now.
      const then = noise.step(t);
      const now = new Float32Array(size);
      let logRatio = 0;
      for (let j = 0; j < size; j++) {
        const at = i * size + j;
        now[j] = ((next[at] as number) - a * (x[at] as number) - b * (call.output[at] as number)) / sigma;
        logRatio += ((then[j] as number) ** 2 - (now[j] as number) ** 2) / (2 * size);
      }
      const advantage = weights[i] as number;
      const ratio = Math.exp(logRatio);
      const clipped = Math.min(1 + clip_range, Math.max(1 - clip_range, ratio));
      losses[i] = (losses[i] as number) + count * Math.max(-advantage * ratio, -advantage * clipped);
      if (-advantage * ratio < -advantage * clipped) continue;
      const slope = (-advantage * ratio * b * count) / (sigma * size * total);
      for (let j = 0; j < size; j++) upstream[i * size + j] = slope * (now[j] as number);
    }
    await call.back(upstream);
  }
  return losses;
}
