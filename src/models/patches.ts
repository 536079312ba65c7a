import type { Value } from "../graph/value.js";
import { fanInUniform, type Scope } from "../nn/scope.js";
import { linear, reshape, transpose } from "../ops/index.js";

/**
 * A vision transformer's convolution whose stride is its kernel, written as the matrix product that it is, which makes
 * its gradient one too: pixels [b, c, h, w] → [b, (h/p)·(w/p), features]
 */
export function patchEmbedding(
  scope: Scope,
  pixels: Value,
  patchSize: number,
  features: number,
  { bias = false }: { readonly bias?: boolean } = {},
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
