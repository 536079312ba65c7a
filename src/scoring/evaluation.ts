/** The result of an evaluation. */
import type { RgbImage } from "../images/rgb.js";
import type { PartRewards } from "../rewards/index.js";

/** Images of the evaluation prompts on fixed noise. Entry i of every list belongs to image i. */
export interface EvaluationResult {
  readonly prompts: readonly string[];
  readonly seeds: readonly number[];
  readonly rewards: readonly number[];
  readonly images: readonly RgbImage[];
  readonly mean: number;
  /** Population standard deviation of `rewards`. */
  readonly std: number;
  /** Only for a combination of rewards. */
  readonly parts?: PartRewards | undefined;
  /** Values of the held-out reward for the same images. */
  readonly heldOut?: RewardSummary | undefined;
  readonly diversity?: Diversity | undefined;
}

export interface RewardSummary {
  readonly rewards: readonly number[];
  readonly mean: number;
  /** Population standard deviation of `rewards`. */
  readonly std: number;
}

/** How much the images of a prompt differ from each other (`diversity.ts`). */
export interface Diversity {
  /** For each image, its mean distance to the other images of its prompt. */
  readonly distances: readonly number[];
  readonly mean: number;
}
