/**
 * A check for rewards, which all built-in ones pass: the gradient agrees with finite differences, and the reward of an image
 * does not depend on the other images of the batch. It computes in float64, with the interpreter instead of ONNX Runtime.
 */
import { gradients } from "../autodiff/index.js";
import { interpret } from "../graph/interpret.js";
import { filled, input } from "../ops/index.js";
import type { HostTensor } from "../tensor/host.js";
import { Rng } from "../tensor/rng.js";
import { readTensor } from "../weights/source.js";
import type { Reward } from "./reward.js";

export interface CheckOptions {
  /** Height and width of the random images; by default 16x16. */
  readonly size?: readonly [number, number];
  /** A prompt per image; by default two. */
  readonly prompts?: readonly string[];
  /** Images to use instead of random ones: [b, 3, h, w] in 0 … 1. */
  readonly pixels?: Float64Array;
  readonly seed?: number;
  /** Largest error of a directional derivative, relative to the largest derivative; by default 1e-4. */
  readonly tolerance?: number;
}

export interface RewardCheck {
  /** Reward of each image. */
  readonly rewards: readonly number[];
  /** Derivatives of the sum of rewards along random directions, from the gradient and from finite differences. */
  readonly directions: readonly { readonly gradient: number; readonly differences: number }[];
  /** Problems as sentences; empty if the reward passes. */
  readonly problems: readonly string[];
}

/** Compiles a reward for the interpreter: pixels and prompts → rewards, and the gradient of their sum, in float64. */
export async function rewardInFloat64(reward: Reward, shape: readonly [number, number, number, number]) {
  const images = input(shape);
  const { rewards, inputs } = reward.build(images);
  const [dImages] = gradients([{ value: rewards, gradient: filled(rewards.shape, 1) }], [images]);
  const outputs = { rewards, ...(dImages && { dImages }) };
  const graph = { name: reward.name, inputs: { images, ...inputs }, outputs };
  const weights = new Map<string, HostTensor>();
  for (const name of reward.weights.names()) {
    const stored = reward.weights.get(name);
    if (stored) weights.set(name, await readTensor(stored));
  }
  return (pixels: Float64Array, prompts: readonly string[]) => {
    const feeds = { images: { shape, data: pixels }, ...reward.feeds(prompts) };
    const results = interpret(graph, feeds, (name) => weights.get(name));
    return {
      rewards: results.rewards?.data as Float64Array,
      gradient: results.dImages?.data as Float64Array | undefined,
    };
  };
}

/**
 * Checks a reward on random images. They are small because the interpreter is slow.
 *
 * @example
 * const { problems } = await checkReward(defineReward({ name: "red", build: (images) => … }));
 * if (problems.length > 0) throw new Error(problems.join("\n"));
 */
export async function checkReward(reward: Reward, options: CheckOptions = {}): Promise<RewardCheck> {
  const { size = [16, 16], prompts = ["a cat", "two dogs"], seed = 9, tolerance = 1e-4 } = options;
  const shape = [prompts.length, 3, ...size] as const;
  const run = await rewardInFloat64(reward, shape);
  const rng = new Rng(seed);
  const pixels =
    options.pixels ?? Float64Array.from({ length: shape.reduce((a, b) => a * b) }, () => 0.05 + 0.9 * rng.uniform());
  const { rewards, gradient } = run(pixels, prompts);
  const problems: string[] = [];
  const bad = rewards.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) problems.push(`the reward of image ${bad} is ${rewards[bad]}`);
  if (!gradient)
    return { rewards: [...rewards], directions: [], problems: ["the reward does not depend on the image"] };

  // A random direction involves every pixel.
  const directions = [1, 2, 3].map(() => {
    const direction = pixels.map(() => rng.normal());
    const h = 1e-6;
    const along = (sign: number) =>
      run(
        pixels.map((p, i) => p + sign * h * (direction[i] as number)),
        prompts,
      ).rewards.reduce((sum, value) => sum + value);
    const differences = (along(1) - along(-1)) / (2 * h);
    return { gradient: gradient.reduce((sum, g, i) => sum + g * (direction[i] as number), 0), differences };
  });
  const largest = Math.max(...directions.map(({ differences }) => Math.abs(differences)));
  for (const { gradient, differences } of directions) {
    if (Math.abs(gradient - differences) <= tolerance * largest + 1e-8) continue;
    problems.push(`the derivative along a random direction is ${gradient}, but finite differences give ${differences}`);
  }
  if (largest === 0) problems.push("the gradient is zero, so nothing can be learned from it");

  // Reversing the batch must reverse the rewards.
  const each = pixels.length / prompts.length;
  const reversed = Float64Array.from(pixels, (_, i) => {
    const image = prompts.length - 1 - Math.floor(i / each);
    return pixels[image * each + (i % each)] as number;
  });
  const restored = run(reversed, prompts.toReversed()).rewards.toReversed();
  const different = rewards.findIndex(
    (value, i) => Math.abs(value - (restored[i] as number)) > 1e-9 * Math.max(1, Math.abs(value)),
  );
  const alone = run(withOthersGray(pixels, each), prompts).rewards[0] as number;
  if (different >= 0 || Math.abs(alone - (rewards[0] as number)) > 1e-9 * Math.max(1, Math.abs(alone))) {
    problems.push("the reward of an image depends on the other images of the batch");
  }
  return { rewards: [...rewards], directions, problems };
}

/** The first image as it is, and gray for the others. */
function withOthersGray(pixels: Float64Array, each: number): Float64Array {
  return pixels.map((value, i) => (i < each ? value : 0.5));
}
