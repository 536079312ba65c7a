import type { Value } from "../../graph/value.js";
import { layerNorm } from "../../nn/layers.js";
import { NORMAL, type Scope } from "../../nn/scope.js";
import { add, broadcastTo, concat, reshape, slice } from "../../ops/index.js";
import { showShape } from "../../tensor/shape.js";
import { patchEmbedding } from "../patches.js";
import type { ClipVisionConfig } from "./config.js";
import { clipEncoder } from "./encoder.js";

/** CLIPVisionModel (a ViT, Dosovitskiy et al. 2020): normalized pixels [b, 3, s, s] → pooled state [b, c] */
export function clipVision(scope: Scope, config: ClipVisionConfig, pixels: Value): Value {
  const { hiddenSize, layerNormEps, channels, imageSize, patchSize } = config;
  const batch = pixels.shape[0] as number;
  const model = scope.at("vision_model");
  const embeddings = model.at("embeddings");

  const [, found, height, width] = pixels.shape as [number, number, number, number];
  if (found !== channels || height !== imageSize || width !== imageSize) {
    throw new TypeError(`clip: pixels ${showShape(pixels.shape)} must be [b, ${channels}, ${imageSize}, ${imageSize}]`);
  }
  const patches = patchEmbedding(embeddings.at("patch_embedding"), pixels, { patchSize, features: hiddenSize });
  const classToken = embeddings.parameter("class_embedding", [hiddenSize], NORMAL);
  const tokens = concat([broadcastTo(classToken, [batch, 1, hiddenSize]), patches], 1);
  const positions = embeddings
    .at("position_embedding")
    .parameter("weight", [tokens.shape[1] as number, hiddenSize], NORMAL);

  // The checkpoints spell it "pre_layrnorm".
  let h = layerNorm(model.at("pre_layrnorm"), add(tokens, positions), layerNormEps);
  h = clipEncoder(model.at("encoder"), config, h).at(-1) as Value;
  return layerNorm(model.at("post_layernorm"), reshape(slice(h, 1, [0, 1]), [batch, hiddenSize]), layerNormEps);
}
