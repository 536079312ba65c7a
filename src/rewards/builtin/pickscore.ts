/**
 * PickScore (Kirstain et al. 2023, arXiv 2305.01569): a CLIP ViT-H/14 that was trained on which of two images people picked
 * for a prompt. The reward is the logit of its training, exp(logit_scale) · cosine.
 *
 * - Input: resized to 224x224, bilinear and without antialiasing (its own scoring is bicubic, antialiased and cropped),
 *   then normalized with the mean and standard deviation of preprocessor_config.json.
 * - Range: 15 to 25, because the scale is about 100 and cosines are small.
 * - Weights: `yuvalkirstain/PickScore_v1` on the hub (MIT), a CLIPModel.
 */
import { z } from "zod";
import { mul } from "../../ops/index.js";
import { commonSettings, location, MAXIMIZE, rewardKind } from "../kind.js";
import {
  cosineScale,
  cosines,
  embedImages,
  embedTexts,
  openClip,
  openTokenizer,
  promptInputs,
} from "../towers/clip-model.js";

export const pickscore = rewardKind({
  schema: z.strictObject({
    name: z.literal("pickscore"),
    ...commonSettings,
    /** A folder in transformers' layout or a file in OpenCLIP's layout; local or on the hub. */
    weights: location.default("yuvalkirstain/PickScore_v1"),
    /** The folder of CLIP's vocabulary; `null`: the folder of the weights. */
    tokenizer: location.nullable().default(null),
  }),
  loss: MAXIMIZE,
  async open({ weights, tokenizer, batch }, context) {
    const model = await openClip(weights, context);
    const promptTokenizer = await openTokenizer("pickscore", model, tokenizer, context);
    const prompts = promptInputs(promptTokenizer);
    return {
      name: "pickscore",
      weights: model.weights,
      ...(batch !== null && { batch }),
      build(images) {
        const tokens = prompts.declare(images.shape[0] as number);
        const similarity = cosines(embedImages(model, images), embedTexts(model, tokens), "row by row");
        return { rewards: mul(similarity, cosineScale(model)), inputs: prompts.named(tokens) };
      },
      feeds: prompts.feeds,
      warnings: promptTokenizer.warnings,
    };
  },
});
