import type { Value } from "../../graph/value.js";
import { maskedAttention } from "../../nn/attention.js";
import { embedding, layerNorm, linear } from "../../nn/layers.js";
import { NORMAL, type Scope } from "../../nn/scope.js";
import { add, attention, gelu, mul, reshape, slice, sub } from "../../ops/index.js";
import type { BlipTextConfig } from "./config.js";

/** BERT's epsilon of layer norms. Checkpoints do not contain it. */
const EPSILON = 1e-12;

export interface BlipTextInputs {
  /** [b, n] int64 */
  readonly ids: Value;
  /** 1 for tokens, 0 for padding [b, n] */
  readonly mask: Value;
  /** Hidden states of the vision tower [b, m, c'] */
  readonly image: Value;
}

/**
 * BLIP's image-grounded text encoder: a post-norm BERT (Devlin et al. 2018) with cross-attention to the image in each
 * layer → last hidden state [b, n, c]
 */
export function blipText(scope: Scope, config: BlipTextConfig, { ids, mask, image }: BlipTextInputs): Value {
  const { hiddenSize, layers, heads, vocabSize, maxPositions } = config;
  const [batch, tokens] = ids.shape as [number, number];
  if (tokens > maxPositions) {
    throw new TypeError(`blip: the input has ${tokens} tokens, but the text model has ${maxPositions} positions`);
  }
  const embeddings = scope.at("embeddings");
  const words = embedding(embeddings.at("word_embeddings"), ids, vocabSize, hiddenSize);
  const positions = embeddings.at("position_embeddings").parameter("weight", [maxPositions, hiddenSize], NORMAL);
  let h = layerNorm(embeddings.at("LayerNorm"), add(words, slice(positions, 0, [0, tokens])), EPSILON);
  // Added to the attention scores: 0 for tokens, far below any score for padding.
  const paddingMask = reshape(mul(sub(mask, 1), 1e9), [batch, 1, 1, tokens]);
  for (let i = 0; i < layers; i++) {
    const layer = scope.at("encoder").at("layer").at(i);
    h = attend(layer.at("attention"), h, h, { heads, mask: paddingMask });
    h = attend(layer.at("crossattention"), h, image, { heads });
    h = feedForward(layer, config, h);
  }
  return h;
}

/** Attention from x [b, n, c] to `context` [b, m, c'], followed by the residual connection and the norm → [b, n, c] */
function attend(
  scope: Scope,
  x: Value,
  context: Value,
  { heads, mask }: { readonly heads: number; readonly mask?: Value },
): Value {
  const features = x.shape[2] as number;
  const projections = scope.at("self");
  const query = linear(projections.at("query"), x, features);
  const key = linear(projections.at("key"), context, features);
  const value = linear(projections.at("value"), context, features);
  const mixed = mask ? maskedAttention(query, key, value, { heads, mask }) : attention(query, key, value, heads);
  const output = scope.at("output");
  return layerNorm(output.at("LayerNorm"), add(linear(output.at("dense"), mixed, features), x), EPSILON);
}

function feedForward(layer: Scope, { hiddenSize, intermediateSize }: BlipTextConfig, x: Value): Value {
  const wide = gelu(linear(layer.at("intermediate").at("dense"), x, intermediateSize));
  const output = layer.at("output");
  return layerNorm(output.at("LayerNorm"), add(linear(output.at("dense"), wide, hiddenSize), x), EPSILON);
}
