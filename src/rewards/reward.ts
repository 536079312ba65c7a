import type { Value } from "../graph/value.js";
import type { HostTensor } from "../tensor/host.js";
import type { WeightSource } from "../weights/source.js";

/** A judge of pictures. Higher is better. It judges each picture of a batch by itself, and with a gradient but for one `outside`. */
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
  /** Where something outside of this program judges, in the place of `build`: images as above, and the prompt of each → rewards. */
  readonly outside?: (images: HostTensor, prompts: readonly string[]) => Promise<readonly number[]>;
  /** Pictures that it judges at once, where that is a number of its own. */
  readonly batch?: number;
  /** What it is a sum of, where it is one. */
  readonly parts?: readonly RewardPart[];
}

export interface RewardGraph {
  readonly rewards: Value;
  readonly inputs: Readonly<Record<string, Value>>;
  /** Of a combination what each of its parts makes of the pictures, before it is weighed [b]. */
  readonly values?: readonly Value[];
}

/** A summand of a combination. */
export interface RewardPart {
  /** Unlike any other part's: the reward's name, numbered where it comes twice. */
  readonly label: string;
  readonly reward: Reward;
  /** What its rewards [b] add to the sum [b]. */
  weigh(rewards: Value): Value;
  /** Whether it has a say on pictures of this prompt. */
  judges(prompt: string): boolean;
}
