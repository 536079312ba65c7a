/**
 * CLIP's opinion of how well a picture fits its prompt: the cosine of their embeddings (Radford et al. 2021,
 * arXiv 2103.00020), without the logit scale. HPS v2 (Wu et al. 2023, arXiv 2306.09341) is the same graph with other
 * weights; its loss in the reference, 1 − cosine, is the target form with target 1.
 */
import { join } from "node:path";
import { z } from "zod";
import type { Value } from "../graph/value.js";
import { imageEmbedding, normalize, textEmbedding } from "../models/clip/clip.js";
import { type ClipConfig, parseClipConfig } from "../models/clip/config.js";
import { clipPixels, type Normalization, parseNormalization } from "../models/clip/preprocess.js";
import { endOfText } from "../models/clip/text.js";
import { openClipTokenizer } from "../models/clip/tokenizer.js";
import { truncationWarnings } from "../models/clip/truncation.js";
import { frozenScope, type Scope } from "../nn/scope.js";
import { input, mul, sum } from "../ops/index.js";
import { InputError } from "../tensor/errors.js";
import { fromNumbers } from "../tensor/host.js";
import { openWeights, readConfig } from "../weights/folder.js";
import { type WeightSource, withPrefix } from "../weights/source.js";
import type { Reward } from "./reward.js";

/** A folder in the layout of Hugging Face's CLIPModel. */
export interface ClipFolder {
  readonly config: ClipConfig;
  readonly normalization: Normalization;
  /** Its tensors, each under `reward.clip.`. */
  readonly weights: WeightSource;
  readonly scope: Scope;
}

export async function openClip(folder: string): Promise<ClipFolder> {
  const preprocessor = "preprocessor_config.json";
  const weights = withPrefix(await openWeights(folder), "reward.clip.");
  return {
    config: parseClipConfig(await readConfig(folder, z.unknown()), join(folder, "config.json")),
    normalization: parseNormalization(await readConfig(folder, z.unknown(), preprocessor), join(folder, preprocessor)),
    weights,
    scope: frozenScope(weights, "reward.clip"),
  };
}

/** images [b, 3, h, w] in 0 … 1 → image embeddings of length 1 [b, d] */
export function embedImages({ config, normalization, scope }: ClipFolder, images: Value): Value {
  const pixels = clipPixels(images, config.vision.imageSize, normalization);
  return normalize(imageEmbedding(scope, config, pixels));
}

export async function clipReward(folder: string, name = "clip"): Promise<Reward> {
  const clip = await openClip(folder);
  const { text } = clip.config;
  const tokenizer = await openClipTokenizer(folder, { contextLength: text.maxPositions });
  if (tokenizer.vocabularySize > text.vocabSize) {
    throw new InputError(
      `reward ${name}: the tokenizer in ${folder} gives ids below ${tokenizer.vocabularySize}, but the text model takes ids below ${text.vocabSize}. Do both belong to one CLIP?`,
    );
  }
  return {
    name,
    weights: clip.weights,
    build(images) {
      const batch = images.shape[0] as number;
      const ids = input([batch, tokenizer.maxLength], "int64");
      const end = input([batch, tokenizer.maxLength]);
      const prompts = normalize(textEmbedding(clip.scope, clip.config, ids, end));
      return {
        rewards: sum(mul(embedImages(clip, images), prompts), 1),
        inputs: { reward_ids: ids, reward_end: end },
      };
    },
    feeds(prompts) {
      const ids = prompts.map((prompt) => tokenizer.encode(prompt).ids);
      return {
        reward_ids: fromNumbers(ids.flat(), [ids.length, tokenizer.maxLength], "int64"),
        reward_end: endOfText(ids, text),
      };
    },
    warnings: (prompts) => truncationWarnings(tokenizer, prompts, `the reward ${name}`),
  };
}
