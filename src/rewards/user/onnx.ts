/**
 * An ONNX model as a reward. The input is an image; the reward is the only number of an output, the score of a class, or the
 * similarity to an embedding. The file is imported as a graph, so its gradient comes from autodiff.
 *
 * - Input: as `preprocessing` says, else preprocessor_config.json, else the shape of the model's input.
 * - Range and licence: those of the model.
 */
import { dirname, join } from "node:path";
import { z } from "zod";
import { InputError } from "../../errors/index.js";
import type { Value } from "../../graph/value.js";
import { exists } from "../../io/files.js";
import { readJson } from "../../io/json.js";
import { type OnnxFile, type OnnxInput, openOnnx } from "../../onnx/import/file.js";
import { OnnxImport } from "../../onnx/import/import.js";
import { constant, input } from "../../ops/index.js";
import { type HostTensor, toNumbers } from "../../tensor/host.js";
import { fromTensors, merge, withPrefix } from "../../weights/source.js";
import { MAXIMIZE, rewardKind } from "../kind.js";
import type { Reward } from "../reward.js";
import { furtherInput, inBatches, inTypeOf, requireFit, selectImageInput } from "./onnx-inputs.js";
import { openReference, selectClass, selectOutput } from "./onnx-output.js";
import { type Preprocessing, parsePreprocessor, preprocess, resolvePreprocessing } from "./onnx-preprocessing.js";
import { hasGradient, requireGradient, rewardsFrom, roundingNote } from "./onnx-score.js";
import { type OnnxContext, type OnnxSettings, onnxSchema } from "./onnx-settings.js";

export { ONNX_FILE, type OnnxSettings, onnxSchema } from "./onnx-settings.js";

/** An ONNX model, opened with its settings. */
export interface OnnxReward {
  readonly file: OnnxFile;
  /** The input that takes the image. */
  readonly image: OnnxInput;
  readonly preprocessing: Preprocessing;
  /** Path of the preprocessor_config.json that was read; undefined if there is none. */
  readonly preprocessor: string | undefined;
  /** Name of the output that the reward is computed from. */
  readonly chosen: string;
  readonly reward: Reward;
  /** images [b, 3, h, w] in 0 … 1 → one of the model's outputs */
  output(images: Value, name: string): Value;
}

export const onnx = rewardKind({
  schema: onnxSchema,
  loss: MAXIMIZE,
  async open(settings, { find, root }) {
    const fileOfRepository = (what: string) => async () => {
      const suggestion = `${what}/model.onnx`;
      throw new InputError(
        "reward-invalid",
        `reward onnx: ${what} is a repository. Name a file in it, such as ${suggestion}.`,
        { setting: "reward.file", found: what, suggestion },
      );
    };
    const reward = await onnxReward(settings, { find: (location) => find(location, fileOfRepository), root });
    return settings.batch === null ? reward : { ...reward, batch: settings.batch };
  },
});

/**
 * Opens an ONNX model as a reward.
 *
 * @throws InputError `onnx-unsupported`, `reward-invalid` or `reward-no-gradient`, with the reason and the remedy.
 */
export async function onnxReward(settings: OnnxSettings, context: OnnxContext): Promise<Reward> {
  const { reward, preprocessing } = await openOnnxReward(settings, context);
  // Images of any size show whether the graph can be built and differentiated.
  const [height, width] = preprocessing.size ?? preprocessing.crop ?? [224, 224];
  reward.build(input([1, 3, height, width]));
  return reward;
}

/** With `whole`, settings that select neither class nor similarity get the largest number of the first output as the reward. */
export async function openOnnxReward(
  settings: OnnxSettings,
  { find, root = "reward" }: OnnxContext,
  { whole = false } = {},
): Promise<OnnxReward> {
  const modelPath = await find(settings.file);
  /** As the user wrote it, for messages. */
  const path = settings.file;
  const file = await openOnnx(modelPath);
  const imageInput = selectImageInput(file, settings);
  const preprocessor = await findPreprocessor(settings, modelPath, find);
  const defaults = preprocessor
    ? parsePreprocessor(await readJson(preprocessor, z.unknown()), preprocessor)
    : undefined;
  const preprocessing = resolvePreprocessing(settings.preprocessing, defaults, imageInput, path);
  const chosen = await selectClass(settings, modelPath, find, file.metadata);
  const reference = await openReference(settings, find);
  if (chosen.index !== null && reference) {
    throw new InputError(
      "settings-conflict",
      `${path}: reward.class and reward.similarity are both set. Remove one of them.`,
      { path, settings: ["reward.class", "reward.similarity"] },
    );
  }
  const name = selectOutput(file, settings, { orFirst: whole });
  const prefix = `${root}.onnx.`;

  const notes = new Set<string>();
  const importFor = (images: Value, straightThrough = false): OnnxImport => {
    const pixels = inTypeOf(imageInput, preprocess(images, preprocessing, path));
    requireFit(pixels, imageInput, path);
    const others = file.inputs.filter((other) => other !== imageInput);
    const values = others.map((other) => [other.name, furtherInput(other, settings, pixels)] as const);
    return new OnnxImport(
      file,
      { [imageInput.name]: pixels, ...Object.fromEntries(values) },
      { prefix, straightThrough },
    );
  };
  const output = (images: Value, wanted: string) =>
    inBatches(images, imageInput, (part) => importFor(part).output(wanted));
  const referenceEmbedding = () => {
    if (!reference) return undefined;
    const tensor = constantOf(reference.tensor);
    return reference.kind === "image" ? output(tensor, name) : tensor;
  };
  const rewardsOf = (part: Value, model: OnnxImport): Value =>
    rewardsFrom(model.output(name), part.shape[0] as number, {
      path,
      output: name,
      chosen,
      settings,
      layout: preprocessing.layout,
      isForOne: imageInput.shape[0] === 1,
      reference: referenceEmbedding(),
      before: (value) => model.before(value),
      orLargest: whole,
    });
  const build = (images: Value): Value =>
    inBatches(images, imageInput, (part) => {
      let model = importFor(part);
      let rewards = rewardsOf(part, model);
      // Rounding has the derivative 0. Where it leaves no gradient at all, it passes the gradient instead.
      if (model.rounds && !hasGradient(rewards, part)) {
        model = importFor(part, true);
        rewards = rewardsOf(part, model);
      }
      requireGradient(rewards, part, model, { path, output: name, outputs: file.outputs });
      const rounding = roundingNote(rewards, model);
      if (rounding) notes.add(`${path}: ${rounding}`);
      return rewards;
    });
  // Part of the weights, so that a change of the file shows when a run is resumed.
  const digest = fromTensors(new Map([["file", file.digest]]));
  return {
    file,
    image: imageInput,
    preprocessing,
    preprocessor,
    chosen: name,
    output,
    reward: {
      name: "onnx",
      weights: merge(withPrefix(file.weights, prefix), withPrefix(digest, `${root}.onnx:`)),
      build: (images) => ({ rewards: build(images), inputs: {} }),
      feeds: () => ({}),
      warnings: () => [...notes],
    },
  };
}

/** The preprocessor_config.json in the settings, or else the one beside the model. */
async function findPreprocessor(
  { preprocessor }: OnnxSettings,
  modelPath: string,
  find: OnnxContext["find"],
): Promise<string | undefined> {
  if (preprocessor) return await find(preprocessor);
  const beside = join(dirname(modelPath), "preprocessor_config.json");
  return (await exists(beside)) ? beside : undefined;
}

const constantOf = (tensor: HostTensor): Value => constant(toNumbers(tensor), tensor.shape);
