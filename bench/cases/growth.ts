/** How time and memory of a training step of the embedded model grow with the size of the work. */
import { script } from "../scripts.js";
import { linearFit, metricOf, showGigabytes, showSeconds, table } from "../summary.js";
import type { Case, CaseContext, Job, Measurement } from "./case.js";

const BASE = { k: 1, batch: 8, steps: 10, size: 64 };
type Work = typeof BASE;

const KS = [1, 2, 5, 10];
const BATCHES = [2, 4, 8, 16];
const SIZES = [64, 96, 128];
const STEPS = [5, 10, 20];

/** Each axis changes one number of the base. Its first column names the variant. */
const AXES: readonly { readonly title: string; readonly key: keyof Work; readonly values: readonly number[] }[] = [
  { title: "differentiated denoising steps (K)", key: "k", values: KS },
  { title: "images at once", key: "batch", values: BATCHES },
  { title: "pixels along each side", key: "size", values: SIZES },
  { title: "denoising steps, of which the last one is differentiated", key: "steps", values: STEPS },
];

const variantOf = (work: Work) =>
  Object.entries(work)
    .map(([name, value]) => `${name} ${value}`)
    .join(", ");

function job(work: Work, { threads }: CaseContext): Job {
  const options = Object.entries({ ...work, threads, repeat: 5 });
  return {
    side: "alignprop",
    variant: variantOf(work),
    command: [
      process.execPath,
      script("update.js"),
      ...options.flatMap(([name, value]) => [`--${name}`, String(value)]),
    ],
  };
}

/** How far the peak memory may vary with the number of denoising steps that are not differentiated. */
const STEADY = 0.02;

export const growthCase: Case = {
  name: "embedded-growth",
  about:
    "How a training step of the embedded model grows: 8 images of 64x64 pixels and 10 denoising steps, of which the last one is differentiated, with one of these numbers changed.",
  jobs: (context) => {
    const works = AXES.flatMap(({ key, values }) => values.map((value) => ({ ...BASE, [key]: value })));
    return [...new Map(works.map((work) => [variantOf(work), job(work, context)])).values()];
  },
  show: (measured) => [
    ...AXES.flatMap(({ title, key, values }) => {
      const rows = values.map((value) => {
        const which = { side: "alignprop", variant: variantOf({ ...BASE, [key]: value }) } as const;
        return [
          String(value),
          showSeconds(metricOf(measured, which, "time")),
          showGigabytes(metricOf(measured, which, "resident")),
          showGigabytes(metricOf(measured, which, "pinned")),
        ];
      });
      return [...table([title, "a training step", "peak memory", "peak without mapped files"], rows), ""];
    }),
    ...fitOverK(measured),
    ...steadiness(measured),
  ],
};

function fitOverK(measured: readonly Measurement[]): string[] {
  const points = KS.flatMap((k) => {
    const seconds = metricOf(measured, { side: "alignprop", variant: variantOf({ ...BASE, k }) }, "time");
    return seconds === undefined ? [] : [[k, seconds] as const];
  });
  if (points.length < KS.length) return [];
  const { slope, intercept, r2 } = linearFit(points);
  return [`By K: ${showSeconds(intercept)} + K · ${showSeconds(slope)} (least squares, R² = ${r2.toFixed(4)}).`];
}

/** Stored latents are small, so the number of steps should not matter to the peak. */
function steadiness(measured: readonly Measurement[]): string[] {
  const peaks = STEPS.flatMap((steps) => {
    const which = { side: "alignprop", variant: variantOf({ ...BASE, steps }) } as const;
    return metricOf(measured, which, "pinned") ?? [];
  });
  if (peaks.length < STEPS.length) return [];
  const spread = Math.max(...peaks) / Math.min(...peaks) - 1;
  return [
    `By denoising steps (K = 1), the peak without mapped files varies by ${(100 * spread).toFixed(1)} % between ${STEPS.join(", ")} steps, ` +
      `${spread <= STEADY ? "within" : "more than"} ${100 * STEADY} %.`,
  ];
}
