import { describe, expect, test } from "vitest";
import { Rng } from "../tensor/rng.js";
import { alignprop } from "./alignprop.js";
import type { DirectEstimator } from "./estimator.js";
import { drawMask, earliestKept, type TruncationSettings } from "./truncation.js";

const steps = 50;
const draws = 4000;

/** For each step, the share of masks that keep it. */
function frequencies(truncation: TruncationSettings): number[] {
  const kept = new Array<number>(steps).fill(0);
  for (let i = 0; i < draws; i++) {
    for (const [step, keeps] of drawMask(truncation, steps, new Rng(1, i)).entries()) {
      if (keeps) kept[step] = (kept[step] as number) + 1;
    }
  }
  return kept.map((count) => count / draws);
}

/** Steps from `first` on. */
const from = (first: number) => Array.from({ length: steps }, (_, i) => i >= first);

/** A few standard deviations of a share of `draws`. */
const TOLERANCE = 4 * Math.sqrt(0.25 / draws);

describe("truncation", () => {
  test("per-step keeps step i with probability (i + 1) / 51, independently of its neighbours", () => {
    const truncation = { mode: "per-step", low: 0, high: null } as const;
    for (const [i, share] of frequencies(truncation).entries()) {
      expect(Math.abs(share - (i + 1) / 51)).toBeLessThan(TOLERANCE);
    }
    const both = Array.from({ length: draws }, (_, i) => drawMask(truncation, steps, new Rng(1, i))).filter(
      (mask) => mask[20] && mask[21],
    );
    expect(Math.abs(both.length / draws - (21 / 51) * (22 / 51))).toBeLessThan(TOLERANCE);
  });

  test("uniform draws once: the shares are the same, and every step after a kept step is kept", () => {
    const truncation = { mode: "uniform", low: 0, high: null } as const;
    for (const [i, share] of frequencies(truncation).entries()) {
      expect(Math.abs(share - (i + 1) / 51)).toBeLessThan(TOLERANCE);
    }
    for (let i = 0; i < 100; i++) {
      const mask = drawMask(truncation, steps, new Rng(2, i));
      expect(mask).toEqual(from(mask.includes(true) ? mask.indexOf(true) : steps));
    }
  });

  test("uniform with a range keeps all steps from its high end on and none before its low end", () => {
    const shares = frequencies({ mode: "uniform", low: 10, high: 20 });
    expect(shares.slice(0, 10)).toEqual(new Array(10).fill(0));
    expect(shares.slice(20)).toEqual(new Array(30).fill(1));
  });

  test("gaussian draws around its mean and always keeps the last step", () => {
    const shares = frequencies({ mode: "gaussian", mean: 42, std: 5 });
    // Φ(0) = 0.5: half of the draws are below 42, so they are truncated to 41 or less.
    expect(Math.abs((shares[41] as number) - 0.5)).toBeLessThan(TOLERANCE);
    expect(Math.abs((shares[36] as number) - 0.1587)).toBeLessThan(TOLERANCE);
    expect(shares[49]).toBe(1);
  });

  test("fixed keeps the last k steps: 1, 10 or all", () => {
    const fixed = (k: number | null) => drawMask({ mode: "fixed", k }, steps, new Rng(1));
    expect(fixed(1)).toEqual(from(49));
    expect(fixed(10)).toEqual(from(40));
    expect(fixed(null)).toEqual(from(0));
  });

  test("no mode keeps a step before earliestKept", () => {
    const modes: TruncationSettings[] = [
      { mode: "per-step", low: 30, high: 40 },
      { mode: "uniform", low: 30, high: 40 },
      { mode: "gaussian", mean: 42, std: 0 },
      { mode: "fixed", k: 7 },
    ];
    for (const truncation of modes) {
      expect(frequencies(truncation).findIndex((share) => share > 0)).toBe(earliestKept(truncation, steps));
    }
  });
});

describe("the estimator", () => {
  test("needs dL/dx_t only if a step before the last one may be kept", () => {
    const needsDx = (truncation: TruncationSettings) =>
      (alignprop.create({ name: "alignprop", truncation }) as DirectEstimator).needsDx(steps);
    expect(needsDx({ mode: "fixed", k: 1 })).toBe(false);
    expect(needsDx({ mode: "fixed", k: 2 })).toBe(true);
    expect(needsDx({ mode: "per-step", low: 0, high: null })).toBe(true);
    expect(needsDx({ mode: "uniform", low: 49, high: null })).toBe(false);
  });
});
