/** How time and memory of a training step of the embedded model grow with the size of the work. */
import { script } from "../scripts.js";
import { linearFit, metricOf, showGigabytes, showSeconds, showTime, table } from "../summary.js";
import type { Case, CaseContext, Job, Measurement } from "./case.js";

const BASE = { k: 1, batch: 8, steps: 10, size: 64 };
type Work = typeof BASE;

const STEPS = [5, 10, 20];

/** An axis changes one number of the base. */
interface Axis {
  readonly title: string;
  readonly key: keyof Work;
  readonly values: readonly number[];
  /** What the time is expected to be linear in: the number itself, or another quantity with its unit. */
  readonly fit: { readonly name: string; readonly of: (value: number) => number };
}

const itself = (value: number) => value;

const AXES: readonly Axis[] = [
  { title: "differentiated denoising steps (K)", key: "k", values: [1, 2, 5, 10], fit: { name: "K", of: itself } },
  { title: "images at once", key: "batch", values: [2, 4, 8, 16], fit: { name: "images", of: itself } },
  {
    title: "pixels along each side",
    key: "size",
    values: [64, 96, 128],
    fit: { name: "thousand pixels of an image", of: (side) => side ** 2 / 1000 },
  },
  {
    title: "denoising steps, of which the last one is differentiated",
    key: "steps",
    values: STEPS,
    fit: { name: "denoising steps", of: itself },
  },
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
          showTime(
            metricOf(measured, which, "time"),
            measured.some(({ variant }) => variant === which.variant),
          ),
          showGigabytes(metricOf(measured, which, "resident")),
          showGigabytes(metricOf(measured, which, "pinned")),
        ];
      });
      return [...table([title, "a training step", "peak memory", "peak without mapped files"], rows), ""];
    }),
    ...AXES.flatMap((axis) => fitted(axis, measured)),
    ...steadiness(measured),
  ],
};

function fitted({ key, values, fit }: Axis, measured: readonly Measurement[]): string[] {
  const points = values.flatMap((value) => {
    const which = { side: "alignprop", variant: variantOf({ ...BASE, [key]: value }) } as const;
    const seconds = metricOf(measured, which, "time");
    return seconds === undefined ? [] : [[fit.of(value), seconds] as const];
  });
  if (points.length < values.length) return [];
  const { slope, intercept, r2 } = linearFit(points);
  return [
    `A training step takes ${showSeconds(intercept)} + ${showSeconds(slope)} x ${fit.name} (least squares, R² = ${r2.toFixed(4)}).`,
  ];
}

/** Stored latents are small, so the number of steps should not matter to the peak. */
function steadiness(measured: readonly Measurement[]): string[] {
  const spreads = (["resident", "pinned"] as const).flatMap((name) => {
    const peaks = STEPS.flatMap((steps) => {
      const which = { side: "alignprop", variant: variantOf({ ...BASE, steps }) } as const;
      return metricOf(measured, which, name) ?? [];
    });
    return peaks.length < STEPS.length ? [] : [Math.max(...peaks) / Math.min(...peaks) - 1];
  });
  if (spreads.length === 0) return [];
  const spread = Math.max(...spreads);
  return [
    `Over ${STEPS.join(", ")} denoising steps (K = 1), the peaks vary by at most ${(100 * spread).toFixed(1)} %, ` +
      `${spread <= STEADY ? "within" : "NOT within"} ${100 * STEADY} %.`,
  ];
}
