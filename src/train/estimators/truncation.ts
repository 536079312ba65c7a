/**
 * Which denoising steps keep the gradient of the noise they predict (AlignProp, arXiv 2310.03739, section 4.2, "randomized
 * truncated back-propagation"). Steps count from 0 at the noise; a draw d detaches the steps before d.
 */
import type { Rng } from "../../tensor/rng.js";
import type { TruncationSettings } from "../settings.js";

/** One sample's mask over the steps of its trajectory: true where the gradient is kept. */
export function drawMask(truncation: TruncationSettings, steps: number, rng: Rng): boolean[] {
  const from = (first: number) => Array.from({ length: steps }, (_, i) => i >= first);
  switch (truncation.mode) {
    case "per-step": {
      const { low, high } = truncation;
      return Array.from({ length: steps }, (_, i) => i >= rng.integer(low, high ?? steps));
    }
    case "uniform":
      return from(rng.integer(truncation.low, truncation.high ?? steps));
    case "gaussian":
      return from(gaussianDraw(truncation.mean + truncation.std * rng.normal(), steps));
    case "fixed":
      return from(truncation.k === null ? 0 : steps - truncation.k);
  }
}

function gaussianDraw(value: number, steps: number): number {
  return Math.min(Math.max(Math.trunc(value), 0), steps - 1);
}

/** For each step, how likely it keeps its gradient: what a plan counts with. */
export function keepProbabilities(truncation: TruncationSettings, steps: number): number[] {
  const at = (probability: (i: number) => number) => Array.from({ length: steps }, (_, i) => probability(i));
  const clamp = (p: number) => Math.min(Math.max(p, 0), 1);
  switch (truncation.mode) {
    case "per-step":
    case "uniform": {
      const { low } = truncation;
      const high = truncation.high ?? steps;
      return at((i) => clamp((i - low + 1) / (high - low + 1)));
    }
    case "gaussian": {
      // trunc(x) ≤ i ⇔ x < i + 1, and the last step is always kept.
      const { mean, std } = truncation;
      return at((i) => (i === steps - 1 ? 1 : std === 0 ? Number(mean < i + 1) : normalCdf((i + 1 - mean) / std)));
    }
    case "fixed": {
      const { k } = truncation;
      return at((i) => Number(k === null || i >= steps - k));
    }
  }
}

/** Φ by the tail series of Abramowitz & Stegun 26.2.17, good to 7.5e-8: enough to count work with. */
function normalCdf(x: number): number {
  const t = 1 / (1 + 0.2316419 * Math.abs(x));
  const series = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  const tail = (series * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);
  return x >= 0 ? 1 - tail : tail;
}
