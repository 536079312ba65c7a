import type { Value } from "../../graph/value.js";
import { layerNorm } from "../../nn/layers.js";
import { fanInUniform, NORMAL, type Scope } from "../../nn/scope.js";
import { add, broadcastTo, concat, linear, reshape, slice, transpose } from "../../ops/index.js";
import { showShape } from "../../tensor/shape.js";
import type { ClipVisionConfig } from "./config.js";
import { clipEncoder } from "./encoder.js";

/** CLIPVisionModel (a ViT, Dosovitskiy et al. 2020): normalised pixels [b, 3, s, s] → pooled state [b, c] */
export function clipVision(scope: Scope, config: ClipVisionConfig, pixels: Value): Value {
  const { hiddenSize, layerNormEps } = config;
  const batch = pixels.shape[0] as number;
  const model = scope.at("vision_model");
  const embeddings = model.at("embeddings");

  const patches = patchEmbedding(embeddings.at("patch_embedding"), config, pixels);
  const classToken = embeddings.parameter("class_embedding", [hiddenSize], NORMAL);
  const tokens = concat([broadcastTo(classToken, [batch, 1, hiddenSize]), patches], 1);
  const positions = embeddings
    .at("position_embedding")
    .parameter("weight", [tokens.shape[1] as number, hiddenSize], NORMAL);

  // "pre_layrnorm" is how the checkpoints spell it.
  let h = layerNorm(model.at("pre_layrnorm"), add(tokens, positions), layerNormEps);
  h = clipEncoder(model.at("encoder"), config, h).at(-1) as Value;
  return layerNorm(model.at("post_layernorm"), reshape(slice(h, 1, 0, 1), [batch, hiddenSize]), layerNormEps);
}

/**
 * The convolution whose stride is its kernel, written as the matrix product that it is, which makes its gradient one
 * too: [b, 3, s, s] → [b, (s/p)², c]
 */
function patchEmbedding(
  scope: Scope,
  { imageSize, patchSize, channels, hiddenSize }: ClipVisionConfig,
  pixels: Value,
): Value {
  const [batch, found, height, width] = pixels.shape as [number, number, number, number];
  if (found !== channels || height !== imageSize || width !== imageSize) {
    throw new TypeError(`clip: pixels ${showShape(pixels.shape)} must be [b, ${channels}, ${imageSize}, ${imageSize}]`);
  }
  const side = imageSize / patchSize;
  const fanIn = channels * patchSize * patchSize;
  const cut = reshape(pixels, [batch, channels, side, patchSize, side, patchSize]);
  const patches = reshape(transpose(cut, [0, 2, 4, 1, 3, 5]), [batch, side * side, fanIn]);
  const weight = scope.parameter("weight", [hiddenSize, channels, patchSize, patchSize], fanInUniform(fanIn));
  return linear(patches, reshape(weight, [hiddenSize, fanIn]));
}
