/** Opens a CLIP for a reward, in the layout of transformers or OpenCLIP, and computes embeddings and similarities. */
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
import { CLIP_TOKENIZER, CLIP_TOKENIZER_CONFIG, tokenizerIn } from "../../weights/ldm/tokenizer.js";
import { readOpenClipModel } from "../../weights/open-clip.js";
import { type WeightSource, withPrefix } from "../../weights/source.js";
import { openWeightFile } from "../../weights/weight-file.js";
import type { OpenContext } from "../kind.js";

export interface OpenedClip {
  /** The folder or file of the weights. */
  readonly path: string;
  readonly isFile: boolean;
  readonly config: ClipConfig;
  readonly normalization: Normalization;
  /** The tensors, with the prefix `<root>.clip.`. */
  readonly weights: WeightSource;
  readonly scope: Scope;
}

/** Opens a folder in the layout of transformers' CLIPModel, or a file in OpenCLIP's layout. */
export async function openClip(location: string, { find, root }: OpenContext): Promise<OpenedClip> {
  const path = await find(location, modelFiles);
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

/** images [b, 3, h, w] in 0 … 1 → normalized image embeddings [b, d] */
export function embedImages({ config, normalization, scope }: OpenedClip, images: Value): Value {
  return normalize(imageEmbedding(scope, config, clipPixels(images, config.vision.imageSize, normalization)));
}

/** Tokenized texts. */
export interface Tokens {
  /** Token ids [n, l], int64. */
  readonly ids: Value;
  /** 1 at the end-of-text token of each text, else 0: [n, l]. */
  readonly end: Value;
}

/** tokens of n texts → normalized text embeddings [n, d] */
export function embedTexts({ config, scope }: OpenedClip, { ids, end }: Tokens): Value {
  return normalize(textEmbedding(scope, config, ids, end));
}

/** exp(logit_scale), the factor of CLIP's logits: a scalar. */
export function cosineScale({ scope }: OpenedClip): Value {
  return exp(logitScale(scope));
}

/** Cosines of normalized embeddings. Row by row: a [b, d], b [b, d] → [b]. All pairs: a [b, d], b [n, d] → [b, n]. */
export function cosines(a: Value, b: Value, pairing: "row by row" | "all pairs"): Value {
  return pairing === "row by row" ? sum(mul(a, b), 1) : matmul(a, b, { transposeB: true });
}

/** A tokenizer with the length and the end-of-text token of a CLIP text tower. */
export interface PromptTokenizer {
  /** Number of ids per text. */
  readonly length: number;
  encode(texts: readonly string[]): { readonly ids: HostTensor; readonly end: HostTensor };
  /** Tokens of fixed texts, as constants of the graph. */
  constants(texts: readonly string[]): Tokens;
  /** A warning for each text that is longer than `length`. */
  warnings(texts: readonly string[]): string[];
}

/**
 * Opens the tokenizer of a CLIP: the one at `location`, or, if that is null, the one in the folder of the weights, or else
 * CLIP's own from the hub. `reward` is the name of the reward, for messages.
 *
 * @throws InputError `model-mismatch` if the vocabulary is larger than that of the text tower, `model-incomplete` if there is
 * no tokenizer.
 */
export async function openTokenizer(
  reward: string,
  { path, isFile, config: { text } }: OpenedClip,
  location: string | null,
  { find }: OpenContext,
): Promise<PromptTokenizer> {
  const folder = location === null ? await ownTokenizer(path, isFile, find) : await find(location, tokenizerFiles);
  const tokenizer = await openClipTokenizer(folder, {
    contextLength: text.maxPositions,
    // A single file has no tokenizer_config.json; the vocabulary beside it is CLIP's.
    ...(isFile && { config: CLIP_TOKENIZER_CONFIG }),
  });
  if (tokenizer.vocabularySize > text.vocabSize) {
    const [found, expected] = [tokenizer.vocabularySize, text.vocabSize];
    throw new InputError(
      "model-mismatch",
      `reward ${reward}: the tokenizer in ${folder} has ${found} tokens, but the text encoder has embeddings for ${expected}. Use the tokenizer that belongs to this CLIP.`,
      { reward, path: folder, found, expected },
    );
  }
  const length = tokenizer.maxLength;
  const encode: PromptTokenizer["encode"] = (texts) => {
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

async function ownTokenizer(path: string, isFile: boolean, find: OpenContext["find"]): Promise<string> {
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
    const reason = error.message;
    throw new InputError(
      "model-incomplete",
      `${path}: a single file has no tokenizer, and CLIP's cannot be downloaded. Put vocab.json and merges.txt of CLIP beside the file, or set tokenizer of the reward to their folder. (${reason})`,
      { path, setting: "reward.tokenizer", reason },
      { cause: error },
    );
  }
}

/** Declares the prompt of each image as inputs of the reward's graph, and fills them. */
export function promptInputs({ length, encode }: Pick<PromptTokenizer, "length" | "encode">) {
  return {
    declare: (batch: number): Tokens => ({ ids: input([batch, length], "int64"), end: input([batch, length]) }),
    named: ({ ids, end }: Tokens) => ({ reward_ids: ids, reward_end: end }),
    feeds(prompts: readonly string[]): Record<string, HostTensor> {
      const { ids, end } = encode(prompts);
      return { reward_ids: ids, reward_end: end };
    },
  };
}
