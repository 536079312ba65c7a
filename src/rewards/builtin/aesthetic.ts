/**
 * The LAION aesthetic predictor (Schuhmann et al. 2022, arXiv 2210.08402), the reward of AlignProp's main experiment:
 * linear layers on the normalized image embedding of CLIP.
 *
 * - Input: resized to the size of the vision tower (224), bilinear and without antialiasing as in AlignProp, then
 *   normalized with CLIP's mean and standard deviation.
 * - Range: about 1 to 10; photographs get 4 to 7.
 * - Weights: the published head `sac+logos+ava1-l14-linearMSE.pth` (Apache-2.0; on the Hugging Face hub as
 *   `trl-lib/ddpo-aesthetic-predictor/aesthetic-model.pth`) or LAION's linear `sa_0_4_vit_l_14_linear.pth` (MIT), on
 *   `openai/clip-vit-large-patch14` (MIT). The default is the embedded CLIP and head of this package (Apache-2.0), which was
 *   trained on a taste of our own.
 */
import { stat } from "node:fs/promises";
import { z } from "zod";
import { InputError } from "../../errors/index.js";
import { aestheticConfigOf, aestheticScore } from "../../models/heads/aesthetic.js";
import { frozenScope } from "../../nn/scope.js";
import { openWeights } from "../../weights/folder.js";
import { modelFiles } from "../../weights/hub/model-files.js";
import { merge, type WeightSource, withPrefix } from "../../weights/source.js";
import { openWeightFile } from "../../weights/weight-file.js";
import { commonSettings, location, rewardKind } from "../kind.js";
import { embedImages, openClip } from "../towers/clip-model.js";

export const aesthetic = rewardKind({
  schema: z.strictObject({
    name: z.literal("aesthetic"),
    ...commonSettings,
    /** A folder or a hub id of a CLIPModel, or a file in OpenCLIP's layout. */
    clip: location.default("models/rewards/clip"),
    /** A file of weights, or a folder that contains one; local or on the hub. */
    head: location.default("models/rewards/aesthetic"),
  }),
  // Above the score of any real image, so that the gradient of |reward - target| never changes sign.
  loss: { form: "target", target: 10 },
  async open({ clip: clipAt, head: headAt, batch }, opening) {
    const clip = await openClip(clipAt, opening);
    const headPath = await opening.find(headAt, modelFiles);
    const path = `${opening.root}.head`;
    const head = withPrefix(await openHead(headPath), `${path}.`);
    const config = aestheticConfigOf(head, path);
    if (config.inFeatures !== clip.config.projectionDim) {
      const [found, expected] = [config.inFeatures, clip.config.projectionDim];
      throw new InputError(
        "model-mismatch",
        `reward aesthetic: the head in ${headPath} takes embeddings of ${found} features, but the CLIP in ${clip.path} outputs ${expected}. Use the CLIP that the head was trained on.`,
        { path: headPath, found, expected, clip: clip.path },
      );
    }
    const outputs = config.layers.at(-1)?.outFeatures;
    if (outputs !== 1) {
      throw new InputError(
        "reward-invalid",
        `reward aesthetic: the head in ${headPath} outputs ${outputs} numbers per image, but a reward is one number. Is the file complete?`,
        { path: headPath, found: outputs, expected: 1 },
      );
    }
    return {
      name: "aesthetic",
      weights: merge(clip.weights, head),
      ...(batch !== null && { batch }),
      build: (images) => ({
        rewards: aestheticScore(frozenScope(head, path), config, embedImages(clip, images)),
        inputs: {},
      }),
      feeds: () => ({}),
      warnings: () => [],
    };
  },
});

/** LAION's linear head is a single layer without a name; the layers of the published MLP are numbered. */
async function openHead(path: string): Promise<WeightSource> {
  const isFile = (await stat(path).catch(() => undefined))?.isFile() === true;
  const source = isFile ? await openWeightFile(path) : await openWeights(path);
  return source.get("weight") ? withPrefix(source, "layers.0.") : source;
}
