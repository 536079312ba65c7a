import type { Value } from "../../graph/value.js";
import { layerNorm, linear } from "../../nn/layers.js";
import { NORMAL, type Scope } from "../../nn/scope.js";
import { add, attention, broadcastTo, concat, gelu, slice } from "../../ops/index.js";
import { patchEmbedding } from "../patches.js";
import type { BlipVisionConfig } from "./config.js";

/** timm's default epsilon of layer norms. Checkpoints do not contain it. */
const EPSILON = 1e-6;

/** BLIP's VisionTransformer, with timm's names: normalized pixels [b, 3, s, s] → all states [b, 1 + patches, c] */
export function blipVision(scope: Scope, config: BlipVisionConfig, pixels: Value): Value {
  const { hiddenSize, intermediateSize, patchSize, layers, heads } = config;
  const batch = pixels.shape[0] as number;
  const patches = patchEmbedding(scope.at("patch_embed").at("proj"), pixels, {
    patchSize,
    features: hiddenSize,
    bias: true,
  });
  const classToken = broadcastTo(scope.parameter("cls_token", [1, 1, hiddenSize], NORMAL), [batch, 1, hiddenSize]);
  const tokens = concat([classToken, patches], 1);
  const [, count] = tokens.shape as [number, number, number];
  let h = add(tokens, scope.parameter("pos_embed", [1, count, hiddenSize], NORMAL));
  for (let i = 0; i < layers; i++) {
    const block = scope.at("blocks").at(i);
    h = add(h, selfAttention(block.at("attn"), layerNorm(block.at("norm1"), h, EPSILON), heads));
    h = add(h, mlp(block.at("mlp"), layerNorm(block.at("norm2"), h, EPSILON), intermediateSize));
  }
  return layerNorm(scope.at("norm"), h, EPSILON);
}

function selfAttention(scope: Scope, x: Value, heads: number): Value {
  const features = x.shape[2] as number;
  const fused = linear(scope.at("qkv"), x, 3 * features);
  const [query, key, value] = [0, 1, 2].map((i) => slice(fused, 2, [i * features, (i + 1) * features])) as [
    Value,
    Value,
    Value,
  ];
  return linear(scope.at("proj"), attention(query, key, value, heads), features);
}

function mlp(scope: Scope, x: Value, intermediateSize: number): Value {
  return linear(scope.at("fc2"), gelu(linear(scope.at("fc1"), x, intermediateSize)), x.shape[2] as number);
}
