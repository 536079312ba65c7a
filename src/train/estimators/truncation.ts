/**
 * Which denoising steps keep the gradient of the noise they predict (AlignProp, arXiv 2310.03739: "randomized
 * truncated back-propagation"). Steps count from 0 at the noise; a draw of d detaches the steps before d.
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
      // Cut to a whole number; the last step is kept whatever is drawn.
      return from(Math.min(Math.trunc(truncation.mean + truncation.std * rng.normal()), steps - 1));
    case "fixed":
      return from(steps - (truncation.k ?? steps));
  }
}

/** No draw keeps a step before this one. */
export function earliestKept(truncation: TruncationSettings, steps: number): number {
  switch (truncation.mode) {
    case "per-step":
    case "uniform":
      return truncation.low;
    case "gaussian":
      return truncation.std === 0 ? Math.min(Math.trunc(truncation.mean), steps - 1) : 0;
    case "fixed":
      return steps - (truncation.k ?? steps);
  }
}
