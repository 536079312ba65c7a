/**
 * PickScore (Kirstain et al. 2023, arXiv 2305.01569): a CLIP ViT-H/14 that learnt which of two pictures people picked for
 * a prompt. The reward is the logit that it was trained with, exp(logit_scale) · cosine.
 *
 * - Input: resized to 224x224, bilinear and without antialiasing (its own scoring is bicubic, antialiased and cropped),
 *   then the mean and deviation of preprocessor_config.json.
 * - Range: the scale is about 100 and cosines are small: 15 to 25.
 * - Weights: `yuvalkirstain/PickScore_v1` of the hub (MIT), a CLIPModel.
 */
import { z } from "zod";
import { mul } from "../../ops/index.js";
import { common, MAXIMIZE, place, rewardKind } from "../kind.js";
import {
  cosineScale,
  cosines,
  embedImages,
  embedTexts,
  openClip,
  openTexts,
  promptInputs,
} from "../towers/clip-model.js";

export const pickscore = rewardKind({
  schema: z.strictObject({
    name: z.literal("pickscore"),
    ...common,
    /** A folder in transformers' layout or a file in OpenCLIP's; here or on the hub. */
    weights: place.default("yuvalkirstain/PickScore_v1"),
    /** Where CLIP's vocabulary lies; `null`: with the weights. */
    tokenizer: place.nullable().default(null),
  }),
  loss: MAXIMIZE,
  async open({ weights, tokenizer, batch }, opening) {
    const model = await openClip(weights, opening);
    const tokens = await openTexts("pickscore", model, tokenizer, opening);
    const prompts = promptInputs(tokens);
    return {
      name: "pickscore",
      weights: model.weights,
      ...(batch !== null && { batch }),
      build(images) {
        const asked = prompts.declare(images.shape[0] as number);
        const alike = cosines(embedImages(model, images), embedTexts(model, asked), "pairs");
        return { rewards: mul(alike, cosineScale(model)), inputs: prompts.named(asked) };
      },
      feeds: prompts.feeds,
      warnings: tokens.warnings,
    };
  },
});
