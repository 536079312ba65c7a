/**
 * The LAION aesthetic predictor (Schuhmann et al. 2022, arXiv 2210.08402), the reward of AlignProp's main experiment:
 * Linear layers on CLIP's image embedding, scaled to length 1.
 *
 * - Input: resized to the vision tower's size (224), bilinear and without antialiasing, as AlignProp does, then CLIP's
 *   mean and deviation.
 * - Range: about 1 to 10; photographs have 4 to 7.
 * - Weights: the published head `sac+logos+ava1-l14-linearMSE.pth` (Apache-2.0; on the hub as
 *   `trl-lib/ddpo-aesthetic-predictor/aesthetic-model.pth`) or LAION's linear `sa_0_4_vit_l_14_linear.pth` (MIT), on
 *   `openai/clip-vit-large-patch14` (MIT). The default is this package's own CLIP and head, whose taste is ours
 *   (Apache-2.0).
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
import { common, place, rewardKind } from "../kind.js";
import { embedImages, openClip } from "../towers/clip-model.js";

export const aesthetic = rewardKind({
  schema: z.strictObject({
    name: z.literal("aesthetic"),
    ...common,
    /** A CLIPModel: a folder, or an id of the hub; or a file in OpenCLIP's layout. */
    clip: place.default("models/rewards/clip"),
    /** A file of weights, or the folder that holds one; here or on the hub. */
    head: place.default("models/rewards/aesthetic"),
  }),
  // Above what real pictures score, so that the gradient never changes sign.
  loss: { form: "target", target: 10 },
  async open({ clip: clipAt, head: headAt, batch }, opening) {
    const clip = await openClip(clipAt, opening);
    const headPath = await opening.find(headAt, modelFiles);
    const path = `${opening.root}.head`;
    const head = withPrefix(await openHead(headPath), `${path}.`);
    const config = aestheticConfigOf(head, path);
    if (config.inFeatures !== clip.config.projectionDim) {
      throw new InputError(
        "reward-invalid",
        `reward aesthetic: the head in ${headPath} takes ${config.inFeatures} features, but the CLIP in ${clip.path} gives ${clip.config.projectionDim}. Use the CLIP that the head was trained on`,
      );
    }
    const scores = config.layers.at(-1)?.outFeatures;
    if (scores !== 1) {
      throw new InputError(
        "reward-invalid",
        `reward aesthetic: the head in ${headPath} gives ${scores} numbers for a picture; a reward is one. Is it the whole head?`,
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

/** A linear head is one layer without a name; the published MLP numbers its layers. */
async function openHead(path: string): Promise<WeightSource> {
  const isFile = (await stat(path).catch(() => undefined))?.isFile() === true;
  const source = isFile ? await openWeightFile(path) : await openWeights(path);
  return source.get("weight") ? withPrefix(source, "layers.0.") : source;
}
