/**
 * ImageReward (Xu et al. 2023, arXiv 2304.05977): BLIP reads the prompt while looking at the picture, and Linear layers
 * with nothing between them turn its first state into a score. Trained on which of several pictures people ranked higher.
 *
 * - Input: resized to 224x224, bilinear and without antialiasing (its own scoring is bicubic, antialiased and cropped),
 *   then CLIP's mean and deviation. The prompt in 35 tokens of BERT.
 * - Range: of about mean 0 and deviation 1 over its authors' pictures; mostly -2 to 2.
 * - Weights: `ImageReward.pt` of the hub's `THUDM/ImageReward` (Apache-2.0), and the vocabulary of
 *   `google-bert/bert-base-uncased` (Apache-2.0).
 */
import { z } from "zod";
import { InputError } from "../../errors/index.js";
import { blipConfigOf } from "../../models/blip/config.js";
import { blipText } from "../../models/blip/text.js";
import { openBertTokenizer } from "../../models/blip/tokenizer.js";
import { blipVision } from "../../models/blip/vision.js";
import { clipPixels } from "../../models/clip/preprocess.js";
import { truncationWarnings } from "../../models/clip/truncation.js";
import { aestheticConfigOf, aestheticScore } from "../../models/heads/aesthetic.js";
import { frozenScope } from "../../nn/scope.js";
import { div, input, reshape, slice, sub } from "../../ops/index.js";
import { fromNumbers } from "../../tensor/host.js";
import { modelFiles, vocabularyFiles } from "../../weights/hub/model-files.js";
import { withPrefix } from "../../weights/source.js";
import { openWeightFile } from "../../weights/weight-file.js";
import { common, MAXIMIZE, place, rewardKind } from "../kind.js";

const TOKENS = 35;

/** Of the scores over the authors' pictures, as published with the code. */
const MEAN = 0.16717362830052426;
const DEVIATION = 1.0333394966054072;

export const imageReward = rewardKind({
  schema: z.strictObject({
    name: z.literal("image-reward"),
    ...common,
    /** The published file, here or on the hub. */
    weights: place.default("THUDM/ImageReward/ImageReward.pt"),
    /** The folder of BERT's vocab.txt, here or on the hub. */
    tokenizer: place.default("google-bert/bert-base-uncased"),
  }),
  loss: MAXIMIZE,
  async open({ weights: at, tokenizer: vocabulary, batch }, { find, root }) {
    const weights = withPrefix(await openWeightFile(await find(at, modelFiles)), `${root}.`);
    const config = blipConfigOf(weights, `${root}.blip`);
    const head = aestheticConfigOf(weights, `${root}.mlp`);
    const folder = await find(vocabulary, vocabularyFiles);
    const tokenizer = await openBertTokenizer(folder, Math.min(TOKENS, config.text.maxPositions));
    if (tokenizer.vocabularySize > config.text.vocabSize) {
      throw new InputError(
        "reward-invalid",
        `reward image-reward: the vocabulary in ${folder} has ${tokenizer.vocabularySize} pieces, but the text model knows ${config.text.vocabSize}. Do both belong together?`,
      );
    }
    if (head.inFeatures !== config.text.hiddenSize || head.layers.at(-1)?.outFeatures !== 1) {
      throw new InputError(
        "reward-invalid",
        `${weights.describe}: the mlp goes from ${head.inFeatures} features to ${head.layers.at(-1)?.outFeatures}; a reward takes the text model's ${config.text.hiddenSize} and gives 1.`,
      );
    }
    const scope = frozenScope(weights, root);
    const blip = scope.at("blip");
    return {
      name: "image-reward",
      weights,
      ...(batch !== null && { batch }),
      build(images) {
        const count = images.shape[0] as number;
        const ids = input([count, tokenizer.maxLength], "int64");
        const mask = input([count, tokenizer.maxLength]);
        const pixels = clipPixels(images, config.vision.imageSize);
        const seen = blipVision(blip.at("visual_encoder"), config.vision, pixels);
        const states = blipText(blip.at("text_encoder"), config.text, { ids, mask, image: seen });
        const first = reshape(slice(states, 1, 0, 1), [count, config.text.hiddenSize]);
        const scores = aestheticScore(scope.at("mlp"), head, first);
        return { rewards: div(sub(scores, MEAN), DEVIATION), inputs: { reward_ids: ids, reward_mask: mask } };
      },
      feeds(prompts) {
        const texts = prompts.map((prompt) => tokenizer.encode(prompt));
        const shape = [texts.length, tokenizer.maxLength];
        return {
          reward_ids: fromNumbers(
            texts.flatMap(({ ids }) => ids),
            shape,
            "int64",
          ),
          reward_mask: fromNumbers(
            texts.flatMap(({ mask }) => mask),
            shape,
          ),
        };
      },
      warnings: (prompts) => truncationWarnings(tokenizer, prompts, "the reward image-reward"),
    };
  },
});
