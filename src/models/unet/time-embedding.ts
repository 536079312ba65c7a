import type { Value } from "../../graph/value.js";
import { type Activation, activations, linear } from "../../nn/layers.js";
import type { Scope } from "../../nn/scope.js";
import { concat, constant, cos, mul, reshape, sin } from "../../ops/index.js";

/**
 * Sines and cosines at geometrically spaced frequencies (Vaswani et al. 2017, section 3.5):
 * timestep [b] → [b, features]
 */
export function sinusoidalEmbedding(
  timestep: Value,
  features: number,
  { flipSinToCos, freqShift }: { readonly flipSinToCos: boolean; readonly freqShift: number },
): Value {
  const half = features / 2;
  const frequencies = Array.from({ length: half }, (_, i) => Math.exp((-Math.log(10_000) * i) / (half - freqShift)));
  const angles = mul(reshape(timestep, [-1, 1]), constant(frequencies, [1, half]));
  return concat(flipSinToCos ? [cos(angles), sin(angles)] : [sin(angles), cos(angles)], 1);
}

/** TimestepEmbedding: [b, c] → [b, features] */
export function timeEmbedding(scope: Scope, x: Value, features: number, activation: Activation = "silu"): Value {
  const h = activations[activation](linear(scope.at("linear_1"), x, features));
  return linear(scope.at("linear_2"), h, features);
}
