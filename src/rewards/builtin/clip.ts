/**
 * The CLIP score: the cosine similarity of the embeddings of image and text, without the logit scale (Radford et al. 2021,
 * arXiv 2103.00020). The text is the image's prompt. With `texts`, it is the mean similarity to those texts instead; with
 * `away`, the mean similarity to those is subtracted.
 *
 * - Input: resized to the size of the vision tower, bilinear and without antialiasing, then normalized with the mean and
 *   standard deviation of preprocessor_config.json.
 * - Range: -1 … 1; with `away` -2 … 2.
 * - Weights: any CLIPModel. The default is the embedded one of this package (Apache-2.0), which was trained on drawn animals
 *   and knows nothing else. OpenAI's `openai/clip-vit-large-patch14` has the MIT licence.
 */
import { z } from "zod";
import type { Value } from "../../graph/value.js";
import { mean, sub } from "../../ops/index.js";
import { commonSettings, location, MAXIMIZE, rewardKind } from "../kind.js";
import { cosines, embedImages, embedTexts, openClip, openTokenizer, promptInputs } from "../towers/clip-model.js";

const texts = z.array(z.string().max(4096)).min(1).max(1000).nullable().default(null);

export const clip = rewardKind({
  schema: z.strictObject({
    name: z.literal("clip"),
    ...commonSettings,
    /** A folder or a hub id of a CLIPModel, or a file in OpenCLIP's layout. */
    clip: location.default("models/rewards/clip"),
    /** Texts that images should match; `null`: the prompt of each image. */
    texts,
    /** Texts that images should not match. */
    away: texts,
  }),
  loss: MAXIMIZE,
  async open({ clip: path, texts: towards, away, batch }, context) {
    const model = await openClip(path, context);
    const tokenizer = await openTokenizer("clip", model, null, context);
    const prompts = promptInputs(tokenizer);
    /** image embeddings [b, d] → mean similarity to constant texts [b] */
    const meanSimilarity = (images: Value, texts: readonly string[]) =>
      mean(cosines(images, embedTexts(model, tokenizer.constants(texts)), "all pairs"), 1);
    return {
      name: "clip",
      weights: model.weights,
      ...(batch !== null && { batch }),
      build(images) {
        const embeddings = embedImages(model, images);
        const tokens = towards ? undefined : prompts.declare(images.shape[0] as number);
        const similarity = tokens
          ? cosines(embeddings, embedTexts(model, tokens), "row by row")
          : meanSimilarity(embeddings, towards ?? []);
        return {
          rewards: away ? sub(similarity, meanSimilarity(embeddings, away)) : similarity,
          inputs: tokens ? prompts.named(tokens) : {},
        };
      },
      feeds: (texts) => (towards ? {} : prompts.feeds(texts)),
      warnings: (texts) => tokenizer.warnings([...(towards ?? texts), ...(away ?? [])]),
    };
  },
});
