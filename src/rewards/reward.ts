import type { Value } from "../graph/value.js";
import type { HostTensor } from "../tensor/host.js";
import type { WeightSource } from "../weights/source.js";

/** A differentiable judge of pictures. Higher is better. */
export interface Reward {
  readonly name: string;
  /** The tensors that its graph names; every name starts with `reward.`. */
  readonly weights: WeightSource;
  /** images [b, 3, h, w] in 0 … 1 → rewards [b], and the inputs that `feeds` fills, whose names start with `reward_`. */
  build(images: Value): RewardGraph;
  /** What the graph needs to know of each picture's prompt. */
  feeds(prompts: readonly string[]): Record<string, HostTensor>;
  /** What of these prompts it cannot read; nothing where it reads none. */
  warnings(prompts: readonly string[]): string[];
}

export interface RewardGraph {
  readonly rewards: Value;
  readonly inputs: Readonly<Record<string, Value>>;
}
