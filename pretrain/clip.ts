import type { Value } from "../src/graph/value.js";
import { imageEmbedding, logitScale, normalize, textEmbedding } from "../src/models/clip/clip.js";
import { type ClipConfig, parseClipConfig } from "../src/models/clip/config.js";
import { clipPixels, parseNormalization } from "../src/models/clip/preprocess.js";
import { endOfText } from "../src/models/clip/text.js";
import type { ClipTokenizer } from "../src/models/clip/tokenizer.js";
import { flatTensors } from "../src/nn/flat.js";
import { add, exp, input, matmul, matrixTranspose, mean, mul, softmax, sum } from "../src/ops/index.js";
import type { Runtime } from "../src/runtime/runtime.js";
import { float32, fromNumbers, type HostTensor } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { describe } from "./data/captions.js";
import { batchAt, type Sample } from "./data/dataset.js";
import type { Icons } from "./data/icons.js";
import { IMAGE_LENGTH } from "./data/render.js";
import { fitModel, type StageOptions } from "./fit.js";
import { crossEntropy } from "./losses.js";
import { trainingGraph } from "./trainable.js";

/** Normalizes to -1 … 1. The statistics of photographs, which CLIP uses, do not fit these images. */
export const PREPROCESSOR_CONFIG = { image_mean: [0.5, 0.5, 0.5], image_std: [0.5, 0.5, 0.5], size: 64 };

export function clipModelConfig({ vocabularySize, endId, startId, padId, maxLength }: ClipTokenizer) {
  return {
    architectures: ["CLIPModel"],
    model_type: "clip",
    projection_dim: 96,
    text_config: {
      hidden_size: 96,
      intermediate_size: 256,
      num_attention_heads: 4,
      num_hidden_layers: 2,
      max_position_embeddings: maxLength,
      vocab_size: vocabularySize,
      bos_token_id: startId,
      eos_token_id: endId,
      pad_token_id: padId,
      hidden_act: "quick_gelu",
    },
    vision_config: {
      hidden_size: 128,
      intermediate_size: 320,
      num_attention_heads: 4,
      num_hidden_layers: 4,
      image_size: 64,
      patch_size: 8,
      hidden_act: "quick_gelu",
    },
  };
}

const BATCH = 128;
/** Slight noise makes the gradient of the reward insensitive to invisible patterns. */
const PIXEL_NOISE = 0.06;

function tokenBatch(tokenizer: ClipTokenizer, captions: readonly string[], config: ClipConfig) {
  const ids = captions.map((caption) => tokenizer.encode(caption).ids);
  return {
    ids: fromNumbers(ids.flat(), [ids.length, tokenizer.maxLength], "int64"),
    ends: endOfText(ids, config.text),
  };
}

/**
 * Contrastive training as in Radford et al. 2021, with one change. There are only 51 animals, so many captions of a batch are true
 * of many images. The target of an image is distributed over all captions that are true of it, and vice versa.
 */
export async function trainClip(
  runtime: Runtime,
  icons: Icons,
  tokenizer: ClipTokenizer,
  { folder, steps, seed }: StageOptions,
): Promise<ReadonlyMap<string, HostTensor>> {
  const config = parseClipConfig(clipModelConfig(tokenizer));
  const normalization = parseNormalization(PREPROCESSOR_CONFIG);
  const pixels = input([BATCH, 3, 64, 64]);
  const ids = input([BATCH, tokenizer.maxLength], "int64");
  const ends = input([BATCH, tokenizer.maxLength]);
  // truth[i, j] is 1 if caption j is true of image i. The other two have its rows and columns, normalized to sum to 1.
  const truth = input([BATCH, BATCH]);
  const captionsOf = input([BATCH, BATCH]);
  const imagesOf = input([BATCH, BATCH]);
  const training = trainingGraph("clip", {
    inputs: { pixels, ids, ends, truth, captionsOf, imagesOf },
    build: (scope) => {
      const normalized = clipPixels(add(mul(pixels, 0.5), 0.5), 64, normalization);
      const images = normalize(imageEmbedding(scope, config, normalized));
      const texts = normalize(textEmbedding(scope, config, ids, ends));
      const logits = mul(matmul(images, texts, { transposeB: true }), exp(logitScale(scope)));
      const loss = mul(add(crossEntropy(logits, captionsOf), crossEntropy(matrixTranspose(logits), imagesOf)), 0.5);
      const matched: Value = mean(sum(mul(softmax(logits), truth), -1), 0);
      return { loss, metrics: { matched } };
    },
  });

  const weights = await fitModel({
    runtime,
    training,
    steps,
    learningRate: 6e-4,
    weightDecay: 0.05,
    averageDecay: 0.995,
    seed,
    folder,
    batch: (step) => {
      const variation = { treated: 0.4, minimumScale: 0.7, tilt: 14 };
      const { samples, images } = batchAt(icons, { seed, start: step * BATCH, size: BATCH, ...variation });
      const noise = new Rng(seed, 1, step);
      for (let i = 0; i < BATCH * IMAGE_LENGTH; i++) images[i] = (images[i] as number) + PIXEL_NOISE * noise.normal();
      return {
        pixels: float32(images, pixels.shape),
        ...tokenBatch(
          tokenizer,
          samples.map(({ caption }) => caption),
          config,
        ),
        ...targets(samples),
      };
    },
  });
  return flatTensors(training.layout, weights);
}

function targets(samples: readonly Sample[]): Record<"truth" | "captionsOf" | "imagesOf", HostTensor> {
  const n = samples.length;
  const truth = new Float32Array(n * n);
  const rows = new Float32Array(n);
  const columns = new Float32Array(n);
  for (const [i, { scene }] of samples.entries()) {
    for (const [j, { telling, caption }] of samples.entries()) {
      if (scene.animal !== samples[j]?.scene.animal || describe(scene, telling) !== caption) continue;
      truth[i * n + j] = 1;
      rows[i] = (rows[i] as number) + 1;
      columns[j] = (columns[j] as number) + 1;
    }
  }
  const captionsOf = truth.map((value, at) => value / (rows[Math.floor(at / n)] as number));
  const imagesOf = truth.map((_, at) => {
    const [image, caption] = [at % n, Math.floor(at / n)];
    return (truth[image * n + caption] as number) / (columns[caption] as number);
  });
  const square = (data: Float32Array) => float32(data, [n, n]);
  return { truth: square(truth), captionsOf: square(captionsOf), imagesOf: square(imagesOf) };
}
