import type { Value } from "../graph/value.js";
import type { HostTensor } from "../tensor/host.js";
import type { WeightSource } from "../weights/source.js";

/**
 * Scores images: the higher, the better. The score of an image must not depend on the other images of the batch. A reward is
 * a graph, so its gradient with respect to the images comes from autodiff.
 *
 * `defineReward` fills in what a simple reward does not need:
 *
 * @example
 * const red = defineReward({ name: "red", build: (images) => ops.mean(ops.slice(images, 1, [0, 1]), [1, 2, 3]) });
 */
export interface Reward {
  /** Name in metrics and messages. */
  readonly name: string;
  /** The tensors that the graph reads by name. Every name starts with `reward.`. */
  readonly weights: WeightSource;
  /**
   * Builds the graph. It is called for each batch size and image size, possibly several times.
   *
   * @param images RGB images [b, 3, h, w], float32 in 0 … 1
   */
  build(images: Value): RewardGraph;
  /** The tensors for `RewardGraph.inputs`, such as token ids [b, n], for one prompt per image. */
  feeds(prompts: readonly string[]): Record<string, HostTensor>;
  /** Warnings about prompts that the reward cannot read in full; empty for a reward that reads no prompts. */
  warnings(prompts: readonly string[]): string[];
  /**
   * Scores images outside of the graph, for a reward without a gradient: images [b, 3, h, w] in 0 … 1 and b prompts → b
   * rewards. `build` is not called then.
   */
  readonly scoreExternally?: (images: HostTensor, prompts: readonly string[]) => Promise<readonly number[]>;
  /** Number of images to score at once; by default the sampling batch. */
  readonly batch?: number;
  /** The summands of a combination. */
  readonly parts?: readonly RewardPart[];
}

export interface RewardGraph {
  /** Rewards [b], float32. */
  readonly rewards: Value;
  /** Inputs that `Reward.feeds` fills. Every name starts with `reward_`. */
  readonly inputs: Readonly<Record<string, Value>>;
  /** For a combination: the reward [b] of each part, before scale and weight. */
  readonly values?: readonly Value[];
}

/** A summand of a combination. */
export interface RewardPart {
  /** Unique name in metrics: the reward's name, with a number if it occurs twice. */
  readonly label: string;
  readonly reward: Reward;
  /** The summand [b] for rewards [b]: clamp, target, scale and weight applied. */
  weigh(rewards: Value): Value;
  /** Whether the part scores images of this prompt (`share`). */
  appliesTo(prompt: string): boolean;
}
