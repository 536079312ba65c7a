/** A CLIP opened for a reward, from either layout, and what rewards do with it. */
import { realpath, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { z } from "zod";
import { InputError } from "../../errors/index.js";
import type { Value } from "../../graph/value.js";
import { imageEmbedding, logitScale, normalize, textEmbedding } from "../../models/clip/clip.js";
import { type ClipConfig, parseClipConfig } from "../../models/clip/config.js";
import {
  CLIP_NORMALIZATION,
  clipPixels,
  type Normalization,
  parseNormalization,
} from "../../models/clip/preprocess.js";
import { endOfText } from "../../models/clip/text.js";
import { openClipTokenizer } from "../../models/clip/tokenizer.js";
import { truncationWarnings } from "../../models/clip/truncation.js";
import { frozenScope, type Scope } from "../../nn/scope.js";
import { constant, exp, input, matmul, mul, sum } from "../../ops/index.js";
import { fromNumbers, type HostTensor, toNumbers } from "../../tensor/host.js";
import { openWeights, readConfig } from "../../weights/folder.js";
import { modelFiles } from "../../weights/hub/model-files.js";
import { tokenizerFiles } from "../../weights/hub/pipeline-files.js";
import { CLIP_TOKENIZER, CLIP_TOKENIZER_CONFIG, tokenizerIn } from "../../weights/ldm/single-file.js";
import { readOpenClipModel } from "../../weights/open-clip.js";
import { type WeightSource, withPrefix } from "../../weights/source.js";
import { openWeightFile } from "../../weights/weight-file.js";
import type { Opening } from "../kind.js";

export interface OpenedClip {
  /** The folder or file that it was read from. */
  readonly path: string;
  readonly isFile: boolean;
  readonly config: ClipConfig;
  readonly normalization: Normalization;
  /** Its tensors, each under `<root>.clip.`. */
  readonly weights: WeightSource;
  readonly scope: Scope;
}

/** From a folder in the layout of transformers' CLIPModel, or a file in OpenCLIP's. */
export async function openClip(place: string, { find, root }: Opening): Promise<OpenedClip> {
  const path = await find(place, modelFiles);
  const isFile = (await stat(path).catch(() => undefined))?.isFile() === true;
  const { config, normalization, weights } = isFile ? await readFile(path) : await readFolder(path);
  const named = withPrefix(weights, `${root}.clip.`);
  return { path, isFile, config, normalization, weights: named, scope: frozenScope(named, `${root}.clip`) };
}

async function readFolder(path: string) {
  const preprocessor = "preprocessor_config.json";
  return {
    config: parseClipConfig(await readConfig(path, z.unknown()), join(path, "config.json")),
    normalization: parseNormalization(await readConfig(path, z.unknown(), preprocessor), join(path, preprocessor)),
    weights: await openWeights(path),
  };
}

async function readFile(path: string) {
  const model = readOpenClipModel(await openWeightFile(path));
  return {
    config: parseClipConfig(model.config, path),
    normalization: CLIP_NORMALIZATION,
    weights: await model.weights(),
  };
}

/** images [b, 3, h, w] in 0 … 1 → image embeddings of length 1 [b, d] */
export function embedImages({ config, normalization, scope }: OpenedClip, images: Value): Value {
  return normalize(imageEmbedding(scope, config, clipPixels(images, config.vision.imageSize, normalization)));
}

/** Tokens of texts: ids [n, l] int64, and a 1 where each ends [n, l]. */
export interface Tokens {
  readonly ids: Value;
  readonly end: Value;
}

/** → text embeddings of length 1 [n, d] */
export function embedTexts({ config, scope }: OpenedClip, { ids, end }: Tokens): Value {
  return normalize(textEmbedding(scope, config, ids, end));
}

/** exp(logit_scale), what CLIP's cosines are multiplied by: a scalar. */
export function cosineScale({ scope }: OpenedClip): Value {
  return exp(logitScale(scope));
}

/** Embeddings of length 1: a [b, d] and b [b, d] in pairs → [b]; a [b, d] and b [n, d], each with all → [b, n] */
export function cosines(a: Value, b: Value, how: "pairs" | "each with all"): Value {
  return how === "pairs" ? sum(mul(a, b), 1) : matmul(a, b, { transposeB: true });
}

export interface TextReader {
  /** The number of ids of every text. */
  readonly length: number;
  encode(texts: readonly string[]): { readonly ids: HostTensor; readonly end: HostTensor };
  /** Texts that are always the same, as literals of the graph. */
  constants(texts: readonly string[]): Tokens;
  warnings(texts: readonly string[]): string[];
}

/**
 * The tokenizer that goes with a CLIP: where `place` says, else in its folder or beside its file, else CLIP's own from the
 * hub. `reward` is its name, for messages.
 */
export async function openTexts(
  reward: string,
  { path, isFile, config: { text } }: OpenedClip,
  place: string | null,
  { find }: Opening,
): Promise<TextReader> {
  const folder = place === null ? await ownTokenizer(path, isFile, find) : await find(place, tokenizerFiles);
  const tokenizer = await openClipTokenizer(folder, {
    contextLength: text.maxPositions,
    // A vocabulary alone, as it lies beside a single file, is CLIP's.
    ...(isFile && { config: CLIP_TOKENIZER_CONFIG }),
  });
  if (tokenizer.vocabularySize > text.vocabSize) {
    throw new InputError(
      "reward-invalid",
      `reward ${reward}: the tokenizer in ${folder} gives ids below ${tokenizer.vocabularySize}, but the text model takes ids below ${text.vocabSize}. Do both belong to one CLIP?`,
    );
  }
  const length = tokenizer.maxLength;
  const encode: TextReader["encode"] = (texts) => {
    const ids = texts.map((each) => tokenizer.encode(each).ids);
    return { ids: fromNumbers(ids.flat(), [ids.length, length], "int64"), end: endOfText(ids, text) };
  };
  return {
    length,
    encode,
    constants(texts) {
      const { ids, end } = encode(texts);
      return { ids: constant(toNumbers(ids), ids.shape, "int64"), end: constant(toNumbers(end), end.shape) };
    },
    warnings: (texts) => truncationWarnings(tokenizer, texts, `the reward ${reward}`),
  };
}

async function ownTokenizer(path: string, isFile: boolean, find: Opening["find"]): Promise<string> {
  if (!isFile) return (await tokenizerIn(path)) ?? path;
  for (const folder of new Set([dirname(path), dirname(await realpath(path))])) {
    const beside = await tokenizerIn(folder);
    if (beside !== undefined) return beside;
  }
  try {
    const fetched = await find(CLIP_TOKENIZER, tokenizerFiles);
    return (await tokenizerIn(fetched)) ?? fetched;
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    throw new InputError(
      "reward-invalid",
      `${path}: a single file holds no tokenizer, and none can be had from the hub. Put CLIP's vocab.json and merges.txt beside it, or name their folder with the reward's tokenizer. (${error.message})`,
    );
  }
}

/** Each picture's prompt as inputs of the reward's graph. */
export function promptInputs({ length, encode }: Pick<TextReader, "length" | "encode">) {
  return {
    declare: (batch: number): Tokens => ({ ids: input([batch, length], "int64"), end: input([batch, length]) }),
    named: ({ ids, end }: Tokens) => ({ reward_ids: ids, reward_end: end }),
    feeds(prompts: readonly string[]): Record<string, HostTensor> {
      const { ids, end } = encode(prompts);
      return { reward_ids: ids, reward_end: end };
    },
  };
}
