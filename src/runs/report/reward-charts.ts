/** Charts of the rewards and of the monitored values over the steps of a run. */
import { rewardTitle } from "../../rewards/index.js";
import type { RewardSummary } from "../../scoring/index.js";
import type { StepMetrics } from "../../train/index.js";
import { evenly, type RunRecord } from "../record/index.js";
import { lineChart, type Mark, type Point, type Series } from "./chart.js";
import { type Html, html } from "./html.js";

/** More points than a screen has pixels would only make the file larger. */
export const MAX_POINTS = 600;

/** Charts of the held-out reward and the diversity, with the same horizontal axis as the chart of the reward. */
export function monitored(
  { settings, evaluations }: RunRecord,
  x: readonly [number, number],
  marks: readonly Mark[],
): Html {
  const chart = (title: string, className: Series["className"], legend: string, points: readonly Point[]) =>
    points.length === 0
      ? html``
      : html`<h3>${title}</h3>
${lineChart({ title: `${title} over steps`, width: 920, height: 190, x, marks, series: [{ label: title, className, dots: true, points }] })}
<p class="legend"><span class="key ${className}"></span>${legend}</p>`;
  const held = settings.evaluation.held_out;
  const heldOut = evaluations.flatMap(({ step, heldOut }) =>
    heldOut ? [{ x: step, y: heldOut.mean, spread: standardError(heldOut) }] : [],
  );
  const diversity = evaluations.flatMap(({ step, diversity }) => (diversity ? [{ x: step, y: diversity.mean }] : []));
  return html`${chart(
    `Held-out reward${held === null ? "" : `: ${rewardTitle(held)}`}`,
    "held",
    "a reward that is not trained on, for the same images. Band: one standard error.",
    heldOut,
  )}
${chart("Diversity", "diverse", "mean cosine distance between the CLIP embeddings of a prompt's images; 0 if all seeds give the same image.", diversity)}`;
}

const standardError = ({ std, rewards }: RewardSummary) => std / Math.sqrt(Math.max(1, rewards.length));

/** First and last step of the reward charts. */
export function axisOf({ metrics, evaluations }: RunRecord): readonly [number, number] {
  const steps = [...metrics, ...evaluations].map(({ step }) => step);
  return [Math.min(...steps), Math.max(...steps)];
}

/**
 * The best checkpoint, and the onset of over-optimisation unless it is at the first evaluation, where its label has no
 * room.
 */
export function marksOf({ best, evaluations }: RunRecord, onset: number | undefined): Mark[] {
  if (evaluations.length < 3) return [];
  const showsOnset = onset !== undefined && onset !== best && onset !== evaluations[0]?.step;
  return [
    ...(best === undefined ? [] : [{ x: best, label: "best" }]),
    ...(showsOnset ? [{ x: onset, label: "over-optimises" }] : []),
  ];
}

/** A chart for each part of a combined reward, before scale and weight are applied. */
export function parts({ metrics }: RunRecord): Html {
  const labels = [...new Set(metrics.flatMap(({ rewards = {} }) => Object.keys(rewards)))];
  if (labels.length === 0) return html``;
  const rows = evenly(metrics, MAX_POINTS);
  const points = (values: (row: StepMetrics) => number | undefined) =>
    rows.flatMap((row) => {
      const y = values(row);
      return y === undefined ? [] : [{ x: row.step, y }];
    });
  const chart = (label: string) =>
    html`<div><h2>${label}</h2>${lineChart({
      title: `${label} over steps`,
      series: [
        { label: "training", className: "train", points: points(({ rewards }) => rewards?.[label]) },
        { label: "evaluation", className: "eval", dots: true, points: points((row) => row.eval_rewards?.[label]) },
      ],
    })}</div>`;
  return html`<section class="pair">${labels.map(chart)}</section>`;
}
