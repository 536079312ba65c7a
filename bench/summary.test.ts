import { expect, test } from "vitest";
import type { Measurement } from "./cases/case.js";
import {
  agreement,
  bestOfPeer,
  comparison,
  linearFit,
  median,
  metricOf,
  ratioToPeer,
  shareOfProducts,
} from "./summary.js";

const LOAD = { average_before: 0, busy_before: 0, others: 0, stolen: 0 };

function measured(
  which: Pick<Measurement, "side" | "variant"> & { round?: number },
  seconds: number[],
  peak: number,
  more: Partial<Measurement> = {},
): Measurement {
  const { round = 0, ...names } = which;
  const bytes = { peak_rss_bytes: peak, peak_pinned_bytes: peak / 2 };
  return { ...names, round, began: "", wall_seconds: 1, ...bytes, load: LOAD, report: { seconds }, ...more };
}

const ours = (round: number) => ({ side: "alignprop", variant: "one", round }) as const;
const peer = (variant: string, round: number) => ({ side: "PyTorch", variant, round }) as const;

test("the median of an even number of values is the mean of the two in the middle", () => {
  expect(median([4, 1, 3])).toBe(3);
  expect(median([4, 1, 3, 2])).toBe(2.5);
});

test("a linear fit finds slope, intercept and R²", () => {
  // y = 2 + 3x
  const exact = linearFit([
    [1, 5],
    [2, 8],
    [5, 17],
  ]);
  expect(exact.slope).toBeCloseTo(3);
  expect(exact.intercept).toBeCloseTo(2);
  expect(exact.r2).toBeCloseTo(1);
  // Of y = 0, 1, 0 over x = 0, 1, 2 a line explains nothing.
  expect(
    linearFit([
      [0, 0],
      [1, 1],
      [2, 0],
    ]).r2,
  ).toBeCloseTo(0);
});

test("the peer's best is found for each metric on its own", () => {
  const all = [measured(peer("fast", 0), [1, 1, 9], 400), measured(peer("small", 0), [2], 300)];
  expect(bestOfPeer(all, "time")).toEqual({ variant: "fast", value: 1 });
  expect(bestOfPeer(all, "resident")).toEqual({ variant: "small", value: 300 });
});

test("a process that failed is not the smallest one, although it used little memory", () => {
  const failed = measured(peer("failed", 0), [], 10, { failed: "SIGKILL", report: {} });
  expect(bestOfPeer([failed, measured(peer("small", 0), [2], 300)], "resident")?.variant).toBe("small");
  expect(comparison([failed]).at(-1)).toContain("did not complete (SIGKILL)");
});

test("a ratio is the median of the ratios within a round", () => {
  // A disturbance of the second round makes both sides slow: 1/2, 30/40, 1/2.
  const all = [
    ...[measured(ours(0), [1], 1), measured(peer("a", 0), [2], 1)],
    ...[measured(ours(1), [30], 1), measured(peer("a", 1), [40], 1)],
    ...[measured(ours(2), [1], 1), measured(peer("a", 2), [2], 1)],
  ];
  expect(ratioToPeer(all, "one", "time")).toBe(0.5);
  expect(metricOf(all, ours(0), "time")).toBe(1);
});

test("a measurement in a cgroup is not among the variants", () => {
  const limited = measured({ side: "alignprop", variant: "limited" }, [9], 1, {
    cgroup: { limit_bytes: 1, peak_bytes: 1 },
  });
  expect(comparison([measured(ours(0), [1], 1), limited])).toHaveLength(3);
});

test("the share of large matrix products is that of the same round", () => {
  const step = measured(ours(0), [2], 1, { report: { seconds: [2], flops: 200e9 } });
  const products = measured({ side: "alignprop", variant: "large matrix products" }, [1], 1, {
    report: { seconds: [1], gflops: 400 },
  });
  // 200 GFLOP in 2 s are 100 GFLOP/s, a quarter of 400.
  expect(shareOfProducts([step, products]).join()).toContain("100 GFLOP/s, 25 % of the 400 GFLOP/s");
});

test("a difference to PyTorch that is not a number is in no tolerance", () => {
  const of = (error: number) => measured(peer("a", 0), [1], 1, { report: { error } });
  expect(agreement([of(1e-6)], { error: "output" }, { error: 1e-4 }).join()).toContain(", within");
  expect(agreement([of(1e-3)], { error: "output" }, { error: 1e-4 }).join()).toContain("NOT within");
  expect(agreement([of(1e-6), of(Number.NaN)], { error: "output" }, { error: 1e-4 }).join()).toContain("NOT within");
});

test("times that other processes disturbed do not count, and peaks do", () => {
  const disturbed = measured(ours(0), [9], 1, { load: { ...LOAD, others: 0.3 } });
  expect(metricOf([disturbed], ours(0), "time")).toBeUndefined();
  expect(metricOf([disturbed], ours(0), "resident")).toBe(1);
  expect(metricOf([disturbed, measured(ours(1), [2], 1)], ours(0), "time")).toBe(2);
  expect(comparison([disturbed]).at(-1)).toContain("disturbed");
});
