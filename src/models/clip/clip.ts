import type { Value } from "../../graph/value.js";
import { linear } from "../../nn/layers.js";
import type { Scope } from "../../nn/scope.js";
import { add, div, mul, sqrt, sum } from "../../ops/index.js";
import type { ClipConfig } from "./config.js";
import { clipText, pooledText } from "./text.js";
import { clipVision } from "./vision.js";

/** CLIPModel (Radford et al. 2021): pictures and texts in one space. */

/** normalised pixels [b, 3, s, s] → image embedding [b, projectionDim], not normalised */
export function imageEmbedding(scope: Scope, config: ClipConfig, pixels: Value): Value {
  const pooled = clipVision(scope, config.vision, pixels);
  return linear(scope.at("visual_projection"), pooled, config.projectionDim, { bias: false });
}

/** ids [b, n] int64, endOfText [b, n] of one 1 a row → text embedding [b, projectionDim], not normalised */
export function textEmbedding(scope: Scope, config: ClipConfig, ids: Value, endOfText: Value): Value {
  const pooled = pooledText(clipText(scope, config.text, ids), endOfText);
  return linear(scope.at("text_projection"), pooled, config.projectionDim, { bias: false });
}

/** Log of what cosines are multiplied by: a scalar that starts as log(1/0.07). */
export function logitScale(scope: Scope): Value {
  return scope.parameter("logit_scale", [], { constant: Math.log(1 / 0.07) });
}

/** x / |x| along the last axis. `floor` keeps a zero vector's gradient finite. */
export function normalize(x: Value, floor = 1e-12): Value {
  const squares = sum(mul(x, x), x.shape.length - 1, { keepDims: true });
  return div(x, sqrt(add(squares, floor)));
}
