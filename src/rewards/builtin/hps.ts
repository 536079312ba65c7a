/**
 * Human Preference Score v2 (Wu et al. 2023, arXiv 2306.09341): a CLIP ViT-H/14 that learnt which of two pictures people
 * prefer for a prompt. The reward is the cosine of picture and prompt; AlignProp's loss, 1 − cosine, is the target form
 * with target 1.
 *
 * - Input: resized to 224x224, bilinear and without antialiasing, as AlignProp does (HPSv2's own scoring pads to a square
 *   first), then CLIP's mean and deviation.
 * - Range: a cosine; of good pictures 0.2 to 0.35. Versions are not comparable with each other.
 * - Weights: `HPS_v2_compressed.pt` and `HPS_v2.1_compressed.pt` of the hub's `xswu/HPSv2` (Apache-2.0), in OpenCLIP's
 *   layout; or a folder in transformers'.
 */
import { z } from "zod";
import { common, place, rewardKind } from "../kind.js";
import { cosines, embedImages, embedTexts, openClip, openTexts, promptInputs } from "../towers/clip-model.js";

const PUBLISHED = {
  "2.0": "xswu/HPSv2/HPS_v2_compressed.pt",
  "2.1": "xswu/HPSv2/HPS_v2.1_compressed.pt",
} as const;

export const hps = rewardKind({
  schema: z.strictObject({
    name: z.literal("hps"),
    ...common,
    /** Which of the published files, where `weights` is null. The reference uses 2.0. */
    version: z.enum(["2.0", "2.1"]).default("2.0"),
    /** A file in OpenCLIP's layout or a folder in transformers'; here or on the hub. */
    weights: place.nullable().default(null),
    /** Where CLIP's vocabulary lies; `null`: with the weights, else on the hub. */
    tokenizer: place.nullable().default(null),
  }),
  loss: { form: "target", target: 1 },
  async open({ version, weights, tokenizer, batch }, opening) {
    const model = await openClip(weights ?? PUBLISHED[version], opening);
    const tokens = await openTexts("hps", model, tokenizer, opening);
    const prompts = promptInputs(tokens);
    return {
      name: "hps",
      weights: model.weights,
      ...(batch !== null && { batch }),
      build(images) {
        const asked = prompts.declare(images.shape[0] as number);
        return {
          rewards: cosines(embedImages(model, images), embedTexts(model, asked), "pairs"),
          inputs: prompts.named(asked),
        };
      },
      feeds: prompts.feeds,
      warnings: tokens.warnings,
    };
  },
});
