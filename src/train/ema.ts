/**
 * The exponential moving average of the trainable parameters (Polyak & Juditsky 1992; Karras et al. 2024, arXiv 2312.02696, on
 * diffusion models). For an adapter, it averages the factors and not their products.
 */

/**
 * averaged ← d · averaged + (1 − d) · weights, in place, after optimizer update k, counted from 1. With a large decay, the
 * average of a short run would stay close to the initial weights, so d = min(decay, (1 + k) / (10 + k)).
 */
export function average(averaged: Float32Array, weights: Float32Array, decay: number, update: number): void {
  const d = Math.min(decay, (1 + update) / (10 + update));
  for (let i = 0; i < averaged.length; i++) {
    averaged[i] = d * (averaged[i] as number) + (1 - d) * (weights[i] as number);
  }
}
