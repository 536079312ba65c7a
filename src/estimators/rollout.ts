/** How an estimator that samples first divides a step's pictures into optimizer updates. */
import { z } from "zod";
import type { KeyProblem, OtherSettings } from "./estimator.js";

export const rounds = {
  /** Optimizer updates of one pass over a step's pictures, each from an equal part of them. */
  updates: z.int().min(1).max(10_000).default(2),
  /** Passes over a step's pictures. */
  inner_epochs: z.int().min(1).max(1000).default(1),
};

export function roundProblems({ updates }: { updates: number }, { total }: OtherSettings["batch"]): KeyProblem[] {
  if (total % updates === 0) return [];
  return [
    { path: ["updates"], message: `is ${updates}, which does not divide batch.total ${total}; give one that does` },
  ];
}

/**
 * Each takes every `parts`-th picture, so that whoever holds a run of neighbouring pictures has a share of every update.
 * Pictures have independent prompts and noise: drawing lots would add nothing.
 */
export function equalParts(pictures: number, parts: number): number[][] {
  return Array.from({ length: parts }, (_, part) =>
    Array.from({ length: pictures }, (_, i) => i).filter((i) => i % parts === part),
  );
}

export function repeated<T>(items: readonly T[], times: number): T[] {
  return Array.from({ length: times }, () => items).flat();
}
