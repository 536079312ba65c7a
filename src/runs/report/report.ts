/** `report.html`: one self-contained page with the images, charts and settings of a run, made from the run's folder. */

import { join } from "node:path";
import { writeFileAtomic } from "../../io/atomic.js";
import { rewardTitle } from "../../rewards/index.js";
import { evenly, leaves, type RunRecord, readRun, runFiles } from "../record/index.js";
import { images } from "./before-after.js";
import { lineChart } from "./chart.js";
import { html } from "./html.js";
import { overOptimisation } from "./over-optimisation.js";
import { reportPage } from "./report-page.js";
import { axisOf, MAX_POINTS, marksOf, monitored, parts } from "./reward-charts.js";
import { ending, evaluationKind, headline, tiles } from "./summary.js";
import { usage } from "./usage.js";

export async function writeReport(path: string): Promise<void> {
  await writeFileAtomic(join(path, runFiles.report), renderReport(await readRun(path)));
}

function renderReport(run: RunRecord): string {
  const { settings } = run;
  const metrics = evenly(run.metrics, MAX_POINTS);
  const overOptimised = overOptimisation(run.evaluations, settings);
  const [x, marks] = [axisOf(run), marksOf(run, overOptimised.step)];
  const title = `${settings.name}: ${rewardTitle(settings.reward)} reward`;
  return reportPage(
    title,
    html`<header>
<p class="kicker">AlignProp · ${settings.name}</p>
<h1>${headline(run)}</h1>
<dl class="tiles">${tiles(run)}</dl>
</header>
${images(run)}
<section>
<h2>Reward</h2>
<p class="verdict">${ending(run)}${overOptimised.text}</p>
${lineChart({
  title: "Reward over steps",
  width: 920,
  height: 280,
  x,
  marks,
  series: [
    {
      label: "training",
      className: "train",
      points: metrics.map((row) => ({ x: row.step, y: row.reward_mean, spread: row.reward_std })),
    },
    {
      label: "evaluation",
      className: "eval",
      dots: true,
      points: run.evaluations.map(({ step, mean, std }) => ({ x: step, y: mean, spread: std })),
    },
  ],
})}
<p class="legend"><span class="key train"></span>training prompts <span class="key eval"></span>${evaluationKind(settings)} prompts, with
the same noise each time. Bands: one standard deviation. Horizontal axis: training steps.</p>
${monitored(run, x, marks)}
</section>
${parts(run)}
<section class="pair">
<div><h2>Loss</h2>${lineChart({ title: "Loss over steps", series: [{ label: "loss", className: "train", points: metrics.map((row) => ({ x: row.step, y: row.loss })) }] })}</div>
<div><h2>Gradient norm</h2>${lineChart({ title: "Gradient norm over steps", series: [{ label: "gradient norm", className: "train", points: metrics.flatMap(({ step, grad_norm }) => (grad_norm === null ? [] : [{ x: step, y: grad_norm }])) }] })}</div>
</section>
${usage(run)}
<section>
<h2>Settings</h2>
<table>${[...leaves(settings)].map(([key, value]) => html`<tr><th>${key}</th><td>${settingText(key, value)}</td></tr>`)}</table>
</section>`,
  );
}

const MAX_ITEMS = 12;

/** Settings for which null means none. For others it means that the value is chosen automatically. */
const NULL_MEANS_NONE = ["evaluation.held_out", "evaluation.diversity", "early_stop", "ema.decay", "lora.start"];

/** The value of a setting. Long lists are shortened; `config.yaml` has them in full. */
function settingText(key: string, json: string): string {
  const value: unknown = JSON.parse(json);
  if (value === null) return NULL_MEANS_NONE.includes(key) || key.startsWith("early_stop.") ? "none" : "automatic";
  if (!Array.isArray(value)) return String(value) || "(empty)";
  const rest = value.length > MAX_ITEMS ? ` … and ${value.length - MAX_ITEMS} more` : "";
  const shown = value.slice(0, MAX_ITEMS).map((item) => (typeof item === "object" ? JSON.stringify(item) : item));
  return (shown.join(", ") || "(none)") + rest;
}
