/**
 * The exponential moving average of what learns (Polyak & Juditsky 1992; Karras et al. 2024, arXiv 2312.02696, on diffusion
 * models). Of an adapter it averages the factors, as they are what learns, not their products.
 */

/**
 * averaged ← d · averaged + (1 − d) · weights, in place, after update k (counted from 1). A short run would hardly leave its
 * start with a large decay, so d = min(decay, (1 + k) / (10 + k)).
 */
export function average(averaged: Float32Array, weights: Float32Array, decay: number, update: number): void {
  const keep = Math.min(decay, (1 + update) / (10 + update));
  for (let i = 0; i < averaged.length; i++) {
    averaged[i] = keep * (averaged[i] as number) + (1 - keep) * (weights[i] as number);
  }
}
