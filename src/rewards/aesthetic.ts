/**
 * The LAION aesthetic predictor (Schuhmann et al. 2022, arXiv 2210.08402), the reward of AlignProp's main experiment:
 * Linear layers on CLIP's image embedding, which give a score of about 1 to 10.
 */
import { aestheticConfigOf, aestheticScore } from "../models/heads/aesthetic.js";
import { frozenScope } from "../nn/scope.js";
import { InputError } from "../tensor/errors.js";
import { openWeights } from "../weights/folder.js";
import { merge, withPrefix } from "../weights/source.js";
import { embedImages, openClip } from "./clip.js";
import type { Reward } from "./reward.js";

export async function aestheticReward(clipFolder: string, headFolder: string): Promise<Reward> {
  const clip = await openClip(clipFolder);
  const head = withPrefix(await openWeights(headFolder), "reward.head.");
  const config = aestheticConfigOf(head, "reward.head");
  if (config.inFeatures !== clip.config.projectionDim) {
    throw new InputError(
      `reward aesthetic: the head in ${headFolder} takes ${config.inFeatures} features, but the CLIP in ${clipFolder} gives ${clip.config.projectionDim}. Use the CLIP that the head was trained on`,
    );
  }
  const scores = config.layers.at(-1)?.outFeatures;
  if (scores !== 1) {
    throw new InputError(
      `reward aesthetic: the head in ${headFolder} gives ${scores} numbers for a picture; a reward is one. Is it the whole head?`,
    );
  }
  return {
    name: "aesthetic",
    weights: merge(clip.weights, head),
    build: (images) => ({
      rewards: aestheticScore(frozenScope(head, "reward.head"), config, embedImages(clip, images)),
      inputs: {},
    }),
    feeds: () => ({}),
    warnings: () => [],
  };
}
