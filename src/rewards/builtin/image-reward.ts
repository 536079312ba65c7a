/**
 * ImageReward (Xu et al. 2023, arXiv 2304.05977): the text encoder of BLIP reads the prompt with cross-attention to the
 * image, and linear layers without activations map its first hidden state to a score. It was trained on human rankings of
 * several images per prompt.
 *
 * - Input: resized to 224x224, bilinear and without antialiasing (its own scoring is bicubic, antialiased and cropped),
 *   then normalized with CLIP's mean and standard deviation. The prompt is cut to 35 tokens of BERT.
 * - Range: mostly -2 to 2; about mean 0 and standard deviation 1 over the images of its authors.
 * - Weights: `ImageReward.pt` of `THUDM/ImageReward` on the hub (Apache-2.0), and the vocabulary of
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
import { commonSettings, location, MAXIMIZE, rewardKind } from "../kind.js";

const MAX_TOKENS = 35;

/** Mean and standard deviation of the scores over the images of the authors, published with their code. */
const MEAN = 0.16717362830052426;
const STD = 1.0333394966054072;

export const imageReward = rewardKind({
  schema: z.strictObject({
    name: z.literal("image-reward"),
    ...commonSettings,
    /** The published file, local or on the hub. */
    weights: location.default("THUDM/ImageReward/ImageReward.pt"),
    /** The folder of BERT's vocab.txt, local or on the hub. */
    tokenizer: location.default("google-bert/bert-base-uncased"),
  }),
  loss: MAXIMIZE,
  async open({ weights: path, tokenizer: vocabulary, batch }, { find, root }) {
    const weights = withPrefix(await openWeightFile(await find(path, modelFiles)), `${root}.`);
    const config = blipConfigOf(weights, `${root}.blip`);
    const head = aestheticConfigOf(weights, `${root}.mlp`);
    const folder = await find(vocabulary, vocabularyFiles);
    const tokenizer = await openBertTokenizer(folder, Math.min(MAX_TOKENS, config.text.maxPositions));
    if (tokenizer.vocabularySize > config.text.vocabSize) {
      const [found, expected] = [tokenizer.vocabularySize, config.text.vocabSize];
      throw new InputError(
        "model-mismatch",
        `reward image-reward: the vocabulary in ${folder} has ${found} tokens, but the text encoder has embeddings for ${expected}. Use the vocabulary that the weights were trained with.`,
        { path: folder, found, expected },
      );
    }
    const [inFeatures, outFeatures] = [head.inFeatures, head.layers.at(-1)?.outFeatures ?? 0];
    const { hiddenSize } = config.text;
    if (inFeatures !== hiddenSize || outFeatures !== 1) {
      throw new InputError(
        "model-mismatch",
        `${weights.describe}: the mlp maps ${inFeatures} features to ${outFeatures}, but must map the ${hiddenSize} features of the text encoder to 1. Is this the published file?`,
        { path: weights.describe, found: [inFeatures, outFeatures], expected: [hiddenSize, 1] },
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
        const image = blipVision(blip.at("visual_encoder"), config.vision, pixels);
        const states = blipText(blip.at("text_encoder"), config.text, { ids, mask, image });
        const first = reshape(slice(states, 1, [0, 1]), [count, hiddenSize]);
        const scores = aestheticScore(scope.at("mlp"), head, first);
        return { rewards: div(sub(scores, MEAN), STD), inputs: { reward_ids: ids, reward_mask: mask } };
      },
      feeds(prompts) {
        const encoded = prompts.map((prompt) => tokenizer.encode(prompt));
        const shape = [encoded.length, tokenizer.maxLength];
        return {
          reward_ids: fromNumbers(
            encoded.flatMap(({ ids }) => ids),
            shape,
            "int64",
          ),
          reward_mask: fromNumbers(
            encoded.flatMap(({ mask }) => mask),
            shape,
          ),
        };
      },
      warnings: (prompts) => truncationWarnings(tokenizer, prompts, "the reward image-reward"),
    };
  },
});
