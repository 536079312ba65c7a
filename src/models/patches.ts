import type { Value } from "../graph/value.js";
import { fanInUniform, type Scope } from "../nn/scope.js";
import { linear, reshape, transpose } from "../ops/index.js";

export interface PatchEmbeddingOptions {
  readonly patchSize: number;
  readonly features: number;
  readonly bias?: boolean;
}

/**
 * The patch embedding of a vision transformer: pixels [b, c, h, w] → [b, (h/p)·(w/p), features]. It is a convolution
 * whose stride equals its kernel, computed as a matrix product, so that its gradient is a matrix product too.
 */
export function patchEmbedding(
  scope: Scope,
  pixels: Value,
  { patchSize, features, bias = false }: PatchEmbeddingOptions,
): Value {
  const [batch, channels, height, width] = pixels.shape as [number, number, number, number];
  const [rows, columns] = [height / patchSize, width / patchSize];
  const fanIn = channels * patchSize * patchSize;
  const cut = reshape(pixels, [batch, channels, rows, patchSize, columns, patchSize]);
  const patches = reshape(transpose(cut, [0, 2, 4, 1, 3, 5]), [batch, rows * columns, fanIn]);
  const init = fanInUniform(fanIn);
  const weight = scope.parameter("weight", [features, channels, patchSize, patchSize], init);
  return linear(
    patches,
    reshape(weight, [features, fanIn]),
    bias ? scope.parameter("bias", [features], init) : undefined,
  );
}
