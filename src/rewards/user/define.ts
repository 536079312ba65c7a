/** Defines a reward of your own: a function of the images, written with `ops`. Its gradient comes from autodiff. */
import type { Value } from "../../graph/value.js";
import * as ops from "../../ops/index.js";
import { showShape } from "../../tensor/shape.js";
import { fromTensors } from "../../weights/source.js";
import type { Reward, RewardGraph } from "../reward.js";

export interface RewardDefinition {
  /** Name in metrics and messages, such as "palette": letters, digits, spaces, dots and dashes, at most 60. */
  readonly name: string;
  /**
   * Builds the graph of the reward. It is called for each batch size and image size, possibly several times. The images are
   * symbolic: use `ops`, not JavaScript arithmetic.
   *
   * @param images RGB images [b, 3, h, w], float32 in 0 … 1
   * @returns rewards [b], float32; the higher, the better. Each must depend on its own image alone. A reward that reads prompts
   * returns `{ rewards, inputs }`, with inputs whose names start with `reward_`.
   */
  build(images: Value): Value | RewardGraph;
  /** A tensor for each of these inputs, from the prompts of the batch, one per image. */
  readonly feeds?: Reward["feeds"];
  /** Warnings about prompts that the reward cannot read in full. */
  readonly warnings?: Reward["warnings"];
  /** The tensors that the graph reads with `ops.parameter`. Every name starts with `reward.`. */
  readonly weights?: Reward["weights"];
  /** Number of images to score at once; by default the sampling batch. */
  readonly batch?: number;
}

/**
 * Makes a reward of its definition, and checks names and shapes.
 *
 * @example
 * // Prefers images that are as red as possible.
 * const red = defineReward({ name: "red", build: (images) => ops.mean(ops.slice(images, 1, [0, 1]), [1, 2, 3]) });
 *
 * @throws TypeError for an invalid name, and from `build` if the result is not float32 [b].
 */
export function defineReward(definition: RewardDefinition): Reward {
  const { name, weights = fromTensors(new Map()), feeds = () => ({}), warnings = () => [], batch } = definition;
  if (typeof name !== "string" || !/^[\w][\w .-]{0,59}$/.test(name)) {
    throw new TypeError(`defineReward: name must be a short string such as "palette", found ${JSON.stringify(name)}`);
  }
  const wrong = [...weights.names()].find((tensor) => !tensor.startsWith("reward."));
  if (wrong !== undefined)
    throw new TypeError(`reward ${name}: the name of the tensor ${wrong} must start with "reward."`);
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
          `reward ${name}: build returns ${rewards.dtype}${showShape(rewards.shape)} for images ${showShape(images.shape)}, but must return float32[${images.shape[0]}], one number per image. To average over an image, use ops.mean(x, [1, 2, 3])`,
        );
      }
      const misnamed = Object.keys(inputs).find((input) => !input.startsWith("reward_"));
      if (misnamed !== undefined) {
        throw new TypeError(`reward ${name}: the name of the input ${misnamed} must start with "reward_"`);
      }
      return { rewards, inputs };
    },
  };
}

/** The first argument of a module's function, so that the module does not need to import anything. */
export interface RewardToolkit {
  readonly defineReward: typeof defineReward;
  readonly ops: typeof ops;
  /** Prefix for the names of the reward's tensors: `reward`, or `reward.0` for the first part of a combination. */
  readonly root: string;
}

/**
 * The default export of a file for `--reward FILE.js`: a reward, or a function that returns one. `options` are those of the
 * recipe.
 *
 * @example
 * export default ({ defineReward, ops }, { channel = 0 }) =>
 *   defineReward({
 *     name: "channel",
 *     build: (images) => ops.mean(ops.slice(images, 1, [channel, channel + 1]), [1, 2, 3]),
 *   });
 */
export type RewardModule =
  | Reward
  | ((toolkit: RewardToolkit, options: Readonly<Record<string, unknown>>) => Reward | Promise<Reward>);

export { ops };
