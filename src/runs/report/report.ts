/** `report.html`: what a run did, in one file with its pictures and charts inside, made from the run's folder alone. */

import { join } from "node:path";
import type { SettingsPart } from "../../config/index.js";
import { writeFileAtomic } from "../../io/atomic.js";
import { rewardTitle } from "../../rewards/index.js";
import type { RewardSummary } from "../../scoring/index.js";
import type { StepMetrics } from "../../train/index.js";
import {
  checkpointFolder,
  evenly,
  leaves,
  type RunRecord,
  readRun,
  runFiles,
  type ShownEvaluation,
  stepFolder,
} from "../record/index.js";
import { lineChart, type Mark, type Point, type Series } from "./chart.js";
import { duration, format } from "./format.js";
import { type Html, html } from "./html.js";
import { ruleText, stopText } from "./monitor-text.js";
import { overOptimisation } from "./over-optimisation.js";
import { reportPage } from "./report-page.js";

/** More than a screen's width of steps would only make the file larger. */
const mostPoints = 600;

export async function writeReport(path: string): Promise<void> {
  await writeFileAtomic(join(path, runFiles.report), renderReport(await readRun(path)));
}

function renderReport(run: RunRecord): string {
  const { settings } = run;
  const metrics = evenly(run.metrics, mostPoints);
  const judged = overOptimisation(run.evaluations, settings);
  const [x, marks] = [axisOf(run), marksOf(run, judged.step)];
  const title = `${settings.name}: ${rewardTitle(settings.reward)} reward`;
  return reportPage(
    title,
    html`<header>
<p class="kicker">AlignProp · ${settings.name}</p>
<h1>${headline(run)}</h1>
<dl class="tiles">${tiles(run)}</dl>
</header>
${pictures(run)}
<section>
<h2>Reward</h2>
<p class="verdict">${ending(run)}${judged.text}</p>
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
<p class="legend"><span class="key train"></span>training prompts <span class="key eval"></span>${evaluationKind(settings)} prompts, on the
same noise each time. Bands: one standard deviation. Across: steps.</p>
${watched(run, x, marks)}
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

/** Below the reward, on the same axis and each on its own scale, what nobody trained. */
function watched({ settings, evaluations }: RunRecord, x: readonly [number, number], marks: readonly Mark[]): Html {
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
    "what a reward that nothing learns from makes of the same pictures. Band: one standard error.",
    heldOut,
  )}
${chart("Diversity", "diverse", "mean cosine distance between the CLIP embeddings of a prompt's pictures; 0 where all seeds give the same picture.", diversity)}`;
}

const standardError = ({ std, rewards }: RewardSummary) => std / Math.sqrt(Math.max(1, rewards.length));

/** The steps that all charts of the reward span. */
function axisOf({ metrics, evaluations }: RunRecord): readonly [number, number] {
  const steps = [...metrics, ...evaluations].map(({ step }) => step);
  return [Math.min(...steps), Math.max(...steps)];
}

/** The best checkpoint, and where the run began to over-optimise (but for its very start, where there is no room). */
function marksOf({ best, evaluations }: RunRecord, onset: number | undefined): Mark[] {
  if (evaluations.length < 3) return [];
  const apart = onset !== undefined && onset !== best && onset !== evaluations[0]?.step;
  return [
    ...(best === undefined ? [] : [{ x: best, label: "best" }]),
    ...(apart ? [{ x: onset, label: "over-optimises" }] : []),
  ];
}

/** How the run came to its end, where its rule did that. */
function ending({ settings, stopped, best, metrics }: RunRecord): string {
  if (settings.early_stop === null) return "";
  const step = metrics.at(-1)?.step;
  const kept = best === undefined || best === step ? "" : ` The best checkpoint is step ${best}.`;
  return stopped
    ? `The run stopped early, after step ${step} of ${settings.train.steps}: ${stopText(stopped, settings)}.${kept} `
    : `${ruleText(settings)}${kept} `;
}

/** Of a combination a chart for each part, as it is before scale and weight. */
function parts({ metrics }: RunRecord): Html {
  const labels = [...new Set(metrics.flatMap(({ rewards = {} }) => Object.keys(rewards)))];
  if (labels.length === 0) return html``;
  const rows = evenly(metrics, mostPoints);
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

function headline({ settings, metrics, evaluations }: RunRecord): string {
  const [before, after] = [evaluations[0], evaluations.at(-1)];
  const steps = metrics.at(-1)?.step ?? 0;
  if (before === undefined || after === undefined || after.step === before.step) {
    return `${rewardTitle(settings.reward)} reward after ${steps} steps`;
  }
  const gain = after.mean - before.mean;
  return (
    `In ${after.step - before.step} steps the ${rewardTitle(settings.reward)} reward on ${evaluationKind(settings)} prompts ` +
    `${gain > 0 ? "rose" : gain < 0 ? "fell" : "stayed"} from ${format(before.mean)} to ${format(after.mean)}` +
    `${before.std > 0 ? `, ${signed(gain / before.std)} standard deviations of the base model` : ""}.`
  );
}

function evaluationKind({ prompts }: SettingsPart<"prompts">): "held-out" | "evaluation" {
  return prompts.eval.some((prompt) => prompts.train.includes(prompt)) ? "evaluation" : "held-out";
}

function tiles({ metrics, evaluations }: RunRecord): Html[] {
  const [before, after] = [evaluations[0], evaluations.at(-1)];
  const seconds = metrics.reduce((sum, row) => sum + row.seconds, 0);
  const peak = metrics.reduce((most, row) => Math.max(most, row.peak_rss_bytes), 0);
  const found: [string, string][] = [];
  if (before !== undefined) found.push(["reward before", `${format(before.mean)} ± ${format(before.std)}`]);
  if (after !== undefined && after !== before)
    found.push(["reward after", `${format(after.mean)} ± ${format(after.std)}`]);
  found.push(["steps", String(metrics.at(-1)?.step ?? 0)]);
  found.push(["training pictures", String(metrics.at(-1)?.samples ?? 0)]);
  found.push(["training time", `${duration(seconds)}, ${duration(seconds / Math.max(1, metrics.length))} a step`]);
  found.push(["peak memory", `${(peak / 2 ** 30).toFixed(2)} GiB`]);
  return found.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`);
}

/** A card for each held-out prompt: for every seed the first and the last evaluation side by side, all of them below. */
function pictures({ shown, path, settings }: RunRecord): Html {
  const [before, after] = [shown[0], shown.at(-1)];
  if (before === undefined || after === undefined) return html``;
  const prompts = [...new Set(before.samples.map(({ prompt }) => prompt))];
  const cards = prompts.map((prompt) => {
    const rows = before.samples
      .filter((sample) => sample.prompt === prompt)
      .map(({ seed }) => {
        const show = ({ step, samples }: ShownEvaluation) => {
          const caption = step === before.step ? "before" : step === after.step ? "after" : `step ${step}`;
          return figure(
            samples.find((sample) => sample.prompt === prompt && sample.seed === seed),
            caption,
          );
        };
        return { ends: [...new Set([before, after])].map(show), strip: shown.map(show) };
      });
    const all =
      shown.length > 2
        ? html`<details><summary>on the way</summary>${rows.map(({ strip }) => html`<div class="strip">${strip}</div>`)}</details>`
        : html``;
    return html`<article><h3>${prompt}</h3>${rows.map(({ ends }) => html`<div class="ends">${ends}</div>`)}${all}</article>`;
  });
  return html`<section><h2>Before and after</h2>
<p>${evaluationKind(settings) === "held-out" ? "Prompts that training never saw" : "The evaluation's prompts"}, drawn from the same
noise each time; the number is the reward.</p>
<div class="cards">${cards}</div>
<p class="legend">All pictures: <code>${join(path, runFiles.samples)}</code></p></section>`;
}

function figure(sample: ShownEvaluation["samples"][number] | undefined, caption: string): Html {
  if (sample === undefined) return html``;
  return html`<figure><img src="data:image/png;base64,${sample.png}" alt="${sample.prompt}, seed ${sample.seed}, ${caption}" title="seed ${sample.seed}"><figcaption>${caption} <b>${format(sample.reward)}</b></figcaption></figure>`;
}

function usage({ path, settings, best, checkpoints }: RunRecord): Html {
  const step = best ?? checkpoints.at(-1);
  if (step === undefined) return html``;
  const adapter = checkpointFolder(path, step);
  const prompt = settings.prompts.template.replaceAll("{}", () => settings.prompts.eval[0] ?? "");
  const generate = html`<p>From the command line:</p>
<pre>alignprop generate --prompt ${shellQuoted(prompt)} --adapter ${shellQuoted(adapter)}</pre>`;
  if (settings.trainable === "unet") {
    return html`<section>
<h2>Use the U-Net</h2>
${generate}
<p>In diffusers:</p>
<pre>from diffusers import StableDiffusionPipeline, UNet2DConditionModel

unet = UNet2DConditionModel.from_pretrained(${JSON.stringify(adapter)}, subfolder="unet")
pipe = StableDiffusionPipeline.from_pretrained(${JSON.stringify(settings.model)}, unet=unet)</pre>
</section>`;
  }
  return html`<section>
<h2>Use the adapter</h2>
${generate}
<p>In diffusers:</p>
<pre>from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained(${JSON.stringify(settings.model)})
pipe.load_lora_weights(${JSON.stringify(adapter)})
image = pipe(${JSON.stringify(prompt)}, num_inference_steps=${settings.sampling.steps}, guidance_scale=${settings.sampling.guidance_scale}).images[0]</pre>
<p>In ComfyUI and A1111: put <code>${stepFolder(step)}/${settings.name}.kohya.safetensors</code> into the folder
<code>models/loras</code> (A1111: <code>models/Lora</code>) and load it as any LoRA, strength 1.</p>
</section>`;
}

const mostItems = 12;

/** Where null is the absence of something, not a value that is found. */
const ABSENT = ["evaluation.held_out", "evaluation.diversity", "early_stop", "ema.decay", "lora.start"];

/** Long lists (prompts) are shortened; `config.yaml` has them in full. */
function settingText(key: string, json: string): string {
  const value: unknown = JSON.parse(json);
  if (value === null) return ABSENT.includes(key) || key.startsWith("early_stop.") ? "none" : "automatic";
  if (!Array.isArray(value)) return String(value) || "(empty)";
  const rest = value.length > mostItems ? ` … and ${value.length - mostItems} more` : "";
  const shown = value.slice(0, mostItems).map((item) => (typeof item === "object" ? JSON.stringify(item) : item));
  return (shown.join(", ") || "(none)") + rest;
}

function shellQuoted(text: string): string {
  return /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function signed(value: number): string {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
}
