/**
 * CLIP's opinion of how well a picture fits a text: the cosine of their embeddings (Radford et al. 2021,
 * arXiv 2103.00020), without the logit scale. The text is the picture's prompt or, with `texts`, the user's own; what is
 * like `away` counts against it.
 *
 * - Input: resized to the vision tower's size, bilinear and without antialiasing, then the mean and deviation of
 *   preprocessor_config.json.
 * - Range: a cosine, -1 … 1; with `away` the difference of two, -2 … 2.
 * - Weights: any CLIPModel. The default is this package's own, made from drawn animals and of use for nothing else
 *   (Apache-2.0). OpenAI's `openai/clip-vit-large-patch14` is under the MIT licence.
 */
import { z } from "zod";
import type { Value } from "../../graph/value.js";
import { mean, sub } from "../../ops/index.js";
import { common, MAXIMIZE, place, rewardKind } from "../kind.js";
import { cosines, embedImages, embedTexts, openClip, openTexts, promptInputs } from "../towers/clip-model.js";

const texts = z.array(z.string().max(4096)).min(1).max(1000).nullable().default(null);

export const clip = rewardKind({
  schema: z.strictObject({
    name: z.literal("clip"),
    ...common,
    /** A CLIPModel: a folder, or an id of the hub. */
    clip: place.default("models/rewards/clip"),
    /** `null`: each picture's prompt. */
    texts,
    /** Texts that pictures should be unlike. */
    away: texts,
  }),
  loss: MAXIMIZE,
  async open({ clip: at, texts: towards, away, batch }, opening) {
    const model = await openClip(at, opening);
    const tokens = await openTexts("clip", model, null, opening);
    const prompts = promptInputs(tokens);
    /** images' embeddings [b, d] → mean cosine with some fixed texts [b] */
    const alike = (images: Value, words: readonly string[]) =>
      mean(cosines(images, embedTexts(model, tokens.constants(words)), "each with all"), 1);
    return {
      name: "clip",
      weights: model.weights,
      ...(batch !== null && { batch }),
      build(images) {
        const seen = embedImages(model, images);
        const asked = towards ? undefined : prompts.declare(images.shape[0] as number);
        const fits = asked ? cosines(seen, embedTexts(model, asked), "pairs") : alike(seen, towards ?? []);
        return {
          rewards: away ? sub(fits, alike(seen, away)) : fits,
          inputs: asked ? prompts.named(asked) : {},
        };
      },
      feeds: (given) => (towards ? {} : prompts.feeds(given)),
      warnings: (given) => tokens.warnings([...(towards ?? given), ...(away ?? [])]),
    };
  },
});
