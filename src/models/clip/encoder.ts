import type { Value } from "../../graph/value.js";
import { maskedAttention } from "../../nn/attention.js";
import { activations, layerNorm, linear } from "../../nn/layers.js";
import type { Scope } from "../../nn/scope.js";
import { add, attention } from "../../ops/index.js";
import type { ClipTowerConfig } from "./config.js";

/**
 * The pre-norm transformer of both towers: x [b, n, c] → x and the state after each layer, all of the same shape.
 * `mask` is added to the attention scores.
 */
export function clipEncoder(scope: Scope, config: ClipTowerConfig, x: Value, mask?: Value): Value[] {
  const states = [x];
  let h = x;
  for (let i = 0; i < config.layers; i++) {
    const layer = scope.at("layers").at(i);
    h = add(
      h,
      selfAttention(layer.at("self_attn"), config, layerNorm(layer.at("layer_norm1"), h, config.layerNormEps), mask),
    );
    h = add(h, mlp(layer.at("mlp"), config, layerNorm(layer.at("layer_norm2"), h, config.layerNormEps)));
    states.push(h);
  }
  return states;
}

function selfAttention(scope: Scope, { hiddenSize, heads }: ClipTowerConfig, x: Value, mask?: Value): Value {
  const query = linear(scope.at("q_proj"), x, hiddenSize);
  const key = linear(scope.at("k_proj"), x, hiddenSize);
  const value = linear(scope.at("v_proj"), x, hiddenSize);
  const mixed = mask ? maskedAttention(query, key, value, { heads, mask }) : attention(query, key, value, heads);
  return linear(scope.at("out_proj"), mixed, hiddenSize);
}

function mlp(scope: Scope, { intermediateSize, hiddenSize, activation }: ClipTowerConfig, x: Value): Value {
  const h = activations[activation](linear(scope.at("fc1"), x, intermediateSize));
  return linear(scope.at("fc2"), h, hiddenSize);
}
