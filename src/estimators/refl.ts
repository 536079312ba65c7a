/**
 * ReFL (Xu et al. 2023, "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation", arXiv
 * 2304.05977, algorithm 1): the chain runs to a late step s, drawn for each picture, and one jump from there gives the picture
 * that is rewarded; the gradient goes through that one call,
 *
 *     s ~ U{low … high},   x̂_0 = (x_s − √(1 − ᾱ_s) · ε_θ(x_s, s, c)) / √ᾱ_s,   g = ∇_θ L(x̂_0),   x_s a constant
 *
 * The rewards in the metrics are those of x̂_0.
 */
import { z } from "zod";
import { type DdimStep, predicted } from "../diffusion/ddim.js";
import { take } from "../diffusion/trajectory.js";
import { estimatorKind, type Toolbox } from "./estimator.js";

const step = z.int().min(0).max(1_000_000_000).nullable();

export const refl = estimatorKind({
  schema: z.strictObject({
    name: z.literal("refl"),
    /** Steps count from 0 at the noise, both ends are included. `null`: the last quarter of the chain (30 to 39 of 40 in the paper). */
    low: step.default(null),
    high: step.default(null),
  }),
  problems(settings, { sampling: { steps } }) {
    const { low, high } = range(settings, steps);
    if (high >= steps) {
      return [
        { path: ["high"], message: `is ${high}, but the last of ${steps} steps is ${steps - 1}; give at most that` },
      ];
    }
    return low > high ? [{ path: ["low"], message: `is ${low}, above high; give at most ${high}` }] : [];
  },
  create: (settings) => ({
    kind: "update",
    name: "refl",
    rewardGradient: true,
    mask(steps, rng) {
      const { low, high } = range(settings, steps);
      const drawn = rng.integer(low, high);
      return Array.from({ length: steps }, (_, i) => i === drawn);
    },
    needsDx: () => false,
    learn,
  }),
});

function range({ low, high }: { low: number | null; high: number | null }, steps: number) {
  return { low: low ?? Math.floor((steps * 3) / 4), high: high ?? steps - 1 };
}

async function learn(tools: Toolbox): Promise<void> {
  const { samples, size } = tools;
  const drawn = samples.map(({ mask }) => mask.indexOf(true));
  const { latents, outputs } = await tools.sample({ until: drawn, outputs: true });
  /** The pictures that jump from each step, and what is there. */
  const jumps = [...new Set(drawn)].map((step) => {
    const pictures = samples.map((_, i) => i).filter((i) => drawn[i] === step);
    const [x, output] = [latents[step], outputs?.[step]].map((all) => take(all as Float32Array, pictures, size));
    const { sample } = tools.steps[step] as DdimStep;
    return { step, pictures, sample, x: x as Float32Array, output: output as Float32Array };
  });
  const jumped = new Float32Array(samples.length * size);
  for (const { pictures, sample, x, output } of jumps) {
    const found = predicted(sample, x, output);
    for (const [n, i] of pictures.entries()) jumped.set(found.subarray(n * size, (n + 1) * size), i * size);
  }
  const { dLatents } = await tools.judge(jumped);
  for (const { step, pictures, sample, x, output } of jumps) {
    const upstream = take(dLatents, pictures, size).map((value) => sample.output * value);
    await tools.vjp({ step, pictures, x, output, upstream, wantsDx: false });
  }
}
