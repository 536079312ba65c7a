/**
 * Human Preference Score v2 (Wu et al. 2023, arXiv 2306.09341): a CLIP ViT-H/14 that was trained on which of two images
 * people prefer for a prompt. The reward is the cosine similarity of image and prompt. AlignProp's loss, 1 − cosine, is the
 * loss form `target` with target 1.
 *
 * - Input: resized to 224x224, bilinear and without antialiasing as in AlignProp (HPSv2's own scoring pads to a square
 *   first), then normalized with CLIP's mean and standard deviation.
 * - Range: a cosine; good images get 0.2 to 0.35. Scores of different versions are not comparable.
 * - Weights: `HPS_v2_compressed.pt` and `HPS_v2.1_compressed.pt` of `xswu/HPSv2` on the hub (Apache-2.0), in OpenCLIP's
 *   layout; or a folder in transformers' layout.
 */
import { z } from "zod";
import { commonSettings, location, rewardKind } from "../kind.js";
import { cosines, embedImages, embedTexts, openClip, openTokenizer, promptInputs } from "../towers/clip-model.js";

const PUBLISHED = {
  "2.0": "xswu/HPSv2/HPS_v2_compressed.pt",
  "2.1": "xswu/HPSv2/HPS_v2.1_compressed.pt",
} as const;

export const hps = rewardKind({
  schema: z.strictObject({
    name: z.literal("hps"),
    ...commonSettings,
    /** Version of the published weights, if `weights` is null. AlignProp uses 2.0. */
    version: z.enum(["2.0", "2.1"]).default("2.0"),
    /** A file in OpenCLIP's layout or a folder in transformers' layout; local or on the hub. */
    weights: location.nullable().default(null),
    /** The folder of CLIP's vocabulary; `null`: the folder of the weights if it has one, else the hub. */
    tokenizer: location.nullable().default(null),
  }),
  loss: { form: "target", target: 1 },
  async open({ version, weights, tokenizer, batch }, context) {
    const model = await openClip(weights ?? PUBLISHED[version], context);
    const promptTokenizer = await openTokenizer("hps", model, tokenizer, context);
    const prompts = promptInputs(promptTokenizer);
    return {
      name: "hps",
      weights: model.weights,
      ...(batch !== null && { batch }),
      build(images) {
        const tokens = prompts.declare(images.shape[0] as number);
        return {
          rewards: cosines(embedImages(model, images), embedTexts(model, tokens), "row by row"),
          inputs: prompts.named(tokens),
        };
      },
      feeds: prompts.feeds,
      warnings: promptTokenizer.warnings,
    };
  },
});
