/** Scores of several micro-batches. */
import { InputError } from "../errors/index.js";
import type { TrainingSample } from "../estimators/index.js";
import { type BatchLosses, joinParts } from "../rewards/index.js";

export function joinScores(batches: readonly BatchLosses[]): BatchLosses {
  const rewards = Float32Array.from(batches.flatMap((each) => [...each.rewards]));
  const losses = Float32Array.from(batches.flatMap((each) => [...each.losses]));
  const parts = joinParts(batches.map((each) => each.parts));
  return { rewards, losses, ...(parts && { parts }) };
}

interface Scored {
  readonly latents: Float32Array;
  readonly rewards: Float32Array;
  readonly dLatents?: Float32Array | undefined;
}

/** @throws InputError `not-finite` with the first sample whose latents, reward or gradient are infinite or NaN */
export function requireFiniteScores(
  samples: readonly TrainingSample[],
  reward: string,
  { latents, rewards, dLatents }: Scored,
): void {
  const size = latents.length / samples.length;
  const allFinite = (values: Float32Array, i: number) =>
    values.subarray(i * size, (i + 1) * size).every(Number.isFinite);
  for (const [i, { prompt, epoch, index }] of samples.entries()) {
    const fault = !allFinite(latents, i)
      ? "the denoised latents are not finite"
      : !Number.isFinite(rewards[i])
        ? `the reward ${reward} is ${rewards[i]}`
        : dLatents && !allFinite(dLatents, i)
          ? `the gradient of the reward ${reward} is not finite`
          : undefined;
    if (fault === undefined) continue;
    throw new InputError("not-finite", `${fault} for "${prompt}" (sample ${index} of epoch ${epoch})`, {
      reward,
      prompt,
      sample: index,
      epoch,
    });
  }
}
