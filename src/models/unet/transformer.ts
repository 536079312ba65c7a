import type { Value } from "../../graph/value.js";
import { conv2d, groupNorm, layerNorm, linear } from "../../nn/layers.js";
import type { Scope } from "../../nn/scope.js";
import { add, attention, gelu, mul, repeatBatch, reshape, slice, transpose } from "../../ops/index.js";

export interface TransformerOptions {
  readonly heads: number;
  readonly layers: number;
  readonly groups: number;
  /** Project in and out with linear layers on tokens (Stable Diffusion 2) instead of 1x1 convolutions (1.x). */
  readonly useLinearProjection: boolean;
  /** attn1 attends to the context instead of the image. */
  readonly onlyCrossAttention?: boolean;
}

/** Transformer2DModel: x [b or a divisor of b, c, h, w], context [b, n, d] → [b, c, h, w] */
export function transformer2d(
  scope: Scope,
  x: Value,
  context: Value,
  { heads, layers, groups, useLinearProjection, onlyCrossAttention = false }: TransformerOptions,
): Value {
  const [, channels, height, width] = x.shape as [number, number, number, number];
  const toTokens = (image: Value) => transpose(reshape(image, [-1, channels, height * width]), [0, 2, 1]);
  const toImage = (tokens: Value) => reshape(transpose(tokens, [0, 2, 1]), [-1, channels, height, width]);

  let h = groupNorm(scope.at("norm"), x, groups, 1e-6);
  h = useLinearProjection
    ? linear(scope.at("proj_in"), toTokens(h), channels)
    : toTokens(conv2d(scope.at("proj_in"), h, { outChannels: channels, kernel: 1 }));
  for (let layer = 0; layer < layers; layer++) {
    h = basicTransformerBlock(scope.at("transformer_blocks").at(layer), h, context, { heads, onlyCrossAttention });
  }
  h = useLinearProjection
    ? toImage(linear(scope.at("proj_out"), h, channels, { zeroInit: true }))
    : conv2d(scope.at("proj_out"), toImage(h), { outChannels: channels, kernel: 1, zeroInit: true });
  return add(h, repeatBatch(x, h));
}

/**
 * BasicTransformerBlock: self-attention, cross-attention, feed-forward. x [b, n, c], context [b, m, d] → [b, n, c].
 * Before the first cross-attention of a U-Net, the batch of x may be a divisor of b.
 */
function basicTransformerBlock(
  scope: Scope,
  x: Value,
  context: Value,
  { heads, onlyCrossAttention }: { readonly heads: number; readonly onlyCrossAttention: boolean },
): Value {
  const normalized = layerNorm(scope.at("norm1"), x);
  const attended = projectedAttention(scope.at("attn1"), normalized, onlyCrossAttention ? context : normalized, heads);
  let h = add(attended, repeatBatch(x, attended));
  h = add(
    projectedAttention(scope.at("attn2"), layerNorm(scope.at("norm2"), h), context, heads),
    repeatBatch(h, context),
  );
  return add(feedForward(scope.at("ff"), layerNorm(scope.at("norm3"), h)), h);
}

/** Attention: queries from x [b, n, c], keys and values from context [b, m, d] → [b, n, c] */
function projectedAttention(scope: Scope, x: Value, context: Value, heads: number): Value {
  const features = x.shape[2] as number;
  const query = linear(scope.at("to_q"), x, features, { bias: false });
  const key = linear(scope.at("to_k"), context, features, { bias: false });
  const value = linear(scope.at("to_v"), context, features, { bias: false });
  return linear(scope.at("to_out").at(0), attention(repeatBatch(query, context), key, value, heads), features);
}

/** FeedForward with GEGLU (Shazeer 2020): x [b, n, c] → [b, n, c] */
function feedForward(scope: Scope, x: Value): Value {
  const features = x.shape[2] as number;
  const inner = 4 * features;
  const projected = linear(scope.at("net").at(0).at("proj"), x, 2 * inner);
  const gated = mul(slice(projected, 2, [0, inner]), gelu(slice(projected, 2, [inner, 2 * inner])));
  return linear(scope.at("net").at(2), gated, features);
}
