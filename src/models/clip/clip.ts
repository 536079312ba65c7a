import type { Value } from "../../graph/value.js";
import { linear } from "../../nn/layers.js";
import type { Scope } from "../../nn/scope.js";
import { add, div, mul, sqrt, sum } from "../../ops/index.js";
import type { ClipConfig } from "./config.js";
import { clipText, pooledText } from "./text.js";
import { clipVision } from "./vision.js";

/** CLIPModel (Radford et al. 2021): images and texts in one embedding space. */

/** normalized pixels [b, 3, s, s] → image embedding [b, projectionDim], not normalized */
export function imageEmbedding(scope: Scope, config: ClipConfig, pixels: Value): Value {
  const pooled = clipVision(scope, config.vision, pixels);
  return linear(scope.at("visual_projection"), pooled, config.projectionDim, { bias: false });
}

/** ids [b, n] int64, endOfText [b, n] one-hot → text embedding [b, projectionDim], not normalized */
export function textEmbedding(scope: Scope, config: ClipConfig, ids: Value, endOfText: Value): Value {
  const pooled = pooledText(clipText(scope, config.text, ids), endOfText);
  return linear(scope.at("text_projection"), pooled, config.projectionDim, { bias: false });
}

/** The logarithm of the factor for cosine similarities, a scalar. It is initialized to log(1/0.07). */
export function logitScale(scope: Scope): Value {
  return scope.parameter("logit_scale", [], { constant: Math.log(1 / 0.07) });
}

/** x / |x| along the last axis. `floor` keeps the gradient of a zero vector finite. */
export function normalize(x: Value, floor = 1e-12): Value {
  const squares = sum(mul(x, x), x.shape.length - 1, { keepDims: true });
  return div(x, sqrt(add(squares, floor)));
}
