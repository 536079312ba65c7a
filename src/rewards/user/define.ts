/** A reward of the user's own: a function of the picture, written in ops. The gradient comes by itself. */
import type { Value } from "../../graph/value.js";
import * as ops from "../../ops/index.js";
import { showShape } from "../../tensor/shape.js";
import { fromTensors } from "../../weights/source.js";
import type { Reward, RewardGraph } from "../reward.js";

export interface RewardDefinition {
  /** As it is called in metrics. */
  readonly name: string;
  /**
   * images [b, 3, h, w] in 0 … 1 → rewards [b], higher is better, each picture's from that picture alone. With inputs of its
   * own (names that start with `reward_`), `{ rewards, inputs }`.
   */
  build(images: Value): Value | RewardGraph;
  /** A tensor for each of those inputs, from the prompts of the batch. */
  readonly feeds?: Reward["feeds"];
  readonly warnings?: Reward["warnings"];
  /** The tensors that the graph names; every name starts with `reward.`. */
  readonly weights?: Reward["weights"];
  /** Pictures judged at once; left out: as many as are sampled at once. */
  readonly batch?: number;
}

export function defineReward(definition: RewardDefinition): Reward {
  const { name, weights = fromTensors(new Map()), feeds = () => ({}), warnings = () => [], batch } = definition;
  if (typeof name !== "string" || !/^[\w][\w .-]{0,59}$/.test(name)) {
    throw new TypeError(`defineReward: name must be a short text such as "palette", found ${JSON.stringify(name)}`);
  }
  const wrong = [...weights.names()].find((tensor) => !tensor.startsWith("reward."));
  if (wrong !== undefined) throw new TypeError(`reward ${name}: the name of tensor ${wrong} must start with "reward."`);
  return {
    name,
    weights,
    feeds,
    warnings,
    ...(batch !== undefined && { batch }),
    build(images) {
      const built = definition.build(images);
      const { rewards, inputs } = "rewards" in built ? built : { rewards: built, inputs: {} };
      if (rewards.shape.length !== 1 || rewards.shape[0] !== images.shape[0] || rewards.dtype !== "float32") {
        throw new TypeError(
          `reward ${name}: build gives ${rewards.dtype}${showShape(rewards.shape)} for images ${showShape(images.shape)}; it must give float32[${images.shape[0]}], one number a picture (ops.mean(x, [1, 2, 3]) takes the mean of each)`,
        );
      }
      const strange = Object.keys(inputs).find((input) => !input.startsWith("reward_"));
      if (strange !== undefined) throw new TypeError(`reward ${name}: the input ${strange} must start with "reward_"`);
      return { rewards, inputs };
    },
  };
}

/** What a reward's module is given, so that it needs to import nothing. */
export interface RewardToolkit {
  readonly defineReward: typeof defineReward;
  readonly ops: typeof ops;
  /** What the names of the reward's tensors begin with: `reward`, or `reward.0` in a combination. */
  readonly root: string;
}

/** The default export of a file for `--reward FILE.js`: a reward, or a function that makes one from the recipe's options. */
export type RewardModule =
  | Reward
  | ((toolkit: RewardToolkit, options: Readonly<Record<string, unknown>>) => Reward | Promise<Reward>);

export { ops };
