/** Randomly truncated back-propagation (AlignProp, arXiv 2310.03739): the U-Net calls of a chain that are differentiated. */
import { z } from "zod";
import type { Rng } from "../tensor/rng.js";
import type { KeyProblem } from "./estimator.js";

const count = z.int().min(1).max(1_000_000_000);
const nonnegative = z.number().min(0);

/**
 * Steps count from 0 (pure noise) to `sampling.steps` - 1. A draw of d detaches the U-Net's output at the steps before d; the last
 * K = steps - d steps keep their gradient.
 */
export const truncation = z.discriminatedUnion("mode", [
  /**
   * A draw of d from `low` … `high`, both included, for every step. By default, step i keeps its gradient with probability
   * (i + 1) / (steps + 1). `high: null` is `sampling.steps`.
   */
  z.strictObject({ mode: z.literal("per-step"), low: z.int().min(0).default(0), high: count.nullable().default(null) }),
  /** One draw of d from `low` … `high`, both included, for the whole trajectory. `high: null` is `sampling.steps`. */
  z.strictObject({ mode: z.literal("uniform"), low: z.int().min(0).default(0), high: count.nullable().default(null) }),
  /** One draw of d for the whole trajectory, from a normal distribution with this mean and standard deviation, in steps. */
  z.strictObject({ mode: z.literal("gaussian"), mean: nonnegative.default(42), std: nonnegative.default(5) }),
  /** The last `k` steps keep their gradient, as in DRaFT-K. `k: null` is the whole chain. */
  z.strictObject({ mode: z.literal("fixed"), k: count.nullable().default(1) }),
]);

export type TruncationSettings = z.output<typeof truncation>;

/** The mask of one sample over the steps of its trajectory: true where the gradient is kept. */
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
      // Truncated to an integer. The last step is always kept.
      return from(Math.min(Math.trunc(truncation.mean + truncation.std * rng.normal()), steps - 1));
    case "fixed":
      return from(steps - (truncation.k ?? steps));
  }
}

/** The earliest step that any draw can keep. */
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

/** Settings that do not fit the length of the chain. */
export function truncationProblems(truncation: TruncationSettings, steps: number): KeyProblem[] {
  const atMostSteps = (key: string, found: number): KeyProblem[] => {
    if (found <= steps) return [];
    return [
      {
        path: ["truncation", key],
        message: `is ${found}, but sampling.steps is ${steps}; give at most ${steps}, or sample more steps`,
        facts: { found, with: "sampling.steps", limit: steps },
      },
    ];
  };
  switch (truncation.mode) {
    case "fixed":
      return atMostSteps("k", truncation.k ?? 1);
    case "gaussian":
      return atMostSteps("mean", truncation.mean);
    case "per-step":
    case "uniform": {
      const { low } = truncation;
      const high = truncation.high ?? steps;
      const lowAboveHigh: KeyProblem = {
        path: ["truncation", "low"],
        message: `is ${low}, above estimator.truncation.high; give at most ${high}`,
        facts: { found: low, with: "estimator.truncation.high", limit: high },
      };
      return [...atMostSteps("high", high), ...(low > high ? [lowAboveHigh] : [])];
    }
  }
}
