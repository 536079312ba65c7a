/** Settings that rollout estimators share: how the samples of a step are divided into optimizer updates. */

import { z } from "zod";
import type { KeyProblem, OtherSettings } from "./estimator.js";

export const rolloutSettings = {
  /** Optimizer updates per pass over the samples of a step, each from an equal part of them. */
  updates: z.int().min(1).max(10_000).default(2),
  /** Passes over the samples of a step. */
  inner_epochs: z.int().min(1).max(1000).default(1),
};

export function rolloutProblems({ updates }: { updates: number }, { total }: OtherSettings["batch"]): KeyProblem[] {
  if (total % updates === 0) return [];
  return [
    {
      path: ["updates"],
      message: `is ${updates}, which does not divide batch.total ${total}; give a divisor of ${total}`,
      facts: { found: updates, with: "batch.total", total },
    },
  ];
}

/**
 * Part i holds every `parts`-th sample from i on, so that a rank that holds consecutive samples has a share of every part.
 * Shuffling would add nothing, because samples have independent prompts and noise.
 */
export function equalParts(samples: number, parts: number): number[][] {
  return Array.from({ length: parts }, (_, part) =>
    Array.from({ length: samples }, (_, i) => i).filter((i) => i % parts === part),
  );
}

export function repeated<T>(items: readonly T[], times: number): T[] {
  return Array.from({ length: times }, () => items).flat();
}

/**
 * A problem of an estimator that weighs the samples of a step against each other, if a step has only one sample: the weight
 * is then the same whatever its reward.
 *
 * @param remedy another setting that makes one sample enough; optional
 */
export function singleSampleProblems(name: string, { total }: OtherSettings["batch"], remedy = ""): KeyProblem[] {
  if (total > 1) return [];
  return [
    {
      path: [],
      message: `${name} compares the samples of a step, but batch.total is ${total}, so the reward would change nothing; set batch.total to at least 2${remedy}`,
      facts: { setting: "batch.total", with: "estimator", found: total, expected: 2 },
    },
  ];
}
