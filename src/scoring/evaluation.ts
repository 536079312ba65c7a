/** What an evaluation found. */
import type { RgbImage } from "../images/rgb.js";
import type { PartRewards } from "../rewards/scores.js";

/** The held-out prompts on fixed noise. Entry i of every list belongs to picture i. */
export interface EvaluationResult {
  readonly prompts: readonly string[];
  readonly seeds: readonly number[];
  readonly rewards: readonly number[];
  readonly images: readonly RgbImage[];
  readonly mean: number;
  /** Population standard deviation of `rewards`. */
  readonly std: number;
  /** Where the reward is a combination. */
  readonly parts?: PartRewards | undefined;
  /** What a held-out reward makes of the same pictures. */
  readonly heldOut?: RewardsOfPictures | undefined;
  readonly diversity?: Diversity | undefined;
}

export interface RewardsOfPictures {
  readonly rewards: readonly number[];
  readonly mean: number;
  /** Population standard deviation of `rewards`. */
  readonly std: number;
}

/** How unlike each other the pictures of a prompt are (`diversity.ts`). */
export interface Diversity {
  /** Of each picture the mean distance to the others of its prompt. */
  readonly distances: readonly number[];
  readonly mean: number;
}
