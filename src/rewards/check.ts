/**
 * The check that this project's own rewards pass: the gradient against finite differences, in float64 and without ONNX
 * Runtime, and that each picture of a batch is judged by itself.
 */
import { gradients } from "../autodiff/index.js";
import { interpret } from "../graph/interpret.js";
import { filled, input } from "../ops/index.js";
import type { HostTensor } from "../tensor/host.js";
import { Rng } from "../tensor/rng.js";
import { readTensor } from "../weights/source.js";
import type { Reward } from "./reward.js";

export interface CheckOptions {
  /** Height and width of the pictures of noise that it is tried on. */
  readonly size?: readonly [number, number];
  /** One picture each. */
  readonly prompts?: readonly string[];
  /** Values of their own for the pictures [b, 3, h, w], in 0 … 1. */
  readonly pixels?: Float64Array;
  readonly seed?: number;
  /** Largest error of a directional derivative, relative to it. */
  readonly tolerance?: number;
}

export interface RewardCheck {
  readonly rewards: readonly number[];
  /** Of each direction: the derivative by the gradient, and by finite differences. */
  readonly directions: readonly { readonly gradient: number; readonly differences: number }[];
  /** What is wrong, in sentences; empty where nothing is. */
  readonly problems: readonly string[];
}

/** The reward and the gradient of its sum, in float64, as functions of the pixels. */
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

/** Small pictures make a quick check: the interpreter is slow, and a pixel is as good as another. */
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
  if (bad >= 0) problems.push(`picture ${bad} has the reward ${rewards[bad]}`);
  if (!gradient) return { rewards: [...rewards], directions: [], problems: ["does not depend on the picture"] };

  // Along random directions, so that every pixel counts.
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
    problems.push(`the gradient says ${gradient} along a random direction, finite differences ${differences}`);
  }
  if (largest === 0) problems.push("has a gradient of zero here, so nothing could be learnt from it");

  // The batch the other way round must give the rewards the other way round.
  const each = pixels.length / prompts.length;
  const turned = Float64Array.from(pixels, (_, i) => {
    const picture = prompts.length - 1 - Math.floor(i / each);
    return pixels[picture * each + (i % each)] as number;
  });
  const swapped = run(turned, prompts.toReversed()).rewards.toReversed();
  const apart = rewards.findIndex(
    (value, i) => Math.abs(value - (swapped[i] as number)) > 1e-9 * Math.max(1, Math.abs(value)),
  );
  const alone = run(withOthersGray(pixels, each), prompts).rewards[0] as number;
  if (apart >= 0 || Math.abs(alone - (rewards[0] as number)) > 1e-9 * Math.max(1, Math.abs(alone))) {
    problems.push("a picture's reward depends on the other pictures of the batch");
  }
  return { rewards: [...rewards], directions, problems };
}

function withOthersGray(pixels: Float64Array, each: number): Float64Array {
  return pixels.map((value, i) => (i < each ? value : 0.5));
}
