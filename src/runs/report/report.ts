/** `report.html`: one self-contained page with the images, charts and settings of a run, made from the run's folder. */

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

/** More points than a screen has pixels would only make the file larger. */
const MAX_POINTS = 600;

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

/** Charts of the held-out reward and the diversity, with the same horizontal axis as the chart of the reward. */
function monitored({ settings, evaluations }: RunRecord, x: readonly [number, number], marks: readonly Mark[]): Html {
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
function axisOf({ metrics, evaluations }: RunRecord): readonly [number, number] {
  const steps = [...metrics, ...evaluations].map(({ step }) => step);
  return [Math.min(...steps), Math.max(...steps)];
}

/**
 * The best checkpoint, and the onset of over-optimisation unless it is at the first evaluation, where its label has no
 * room.
 */
function marksOf({ best, evaluations }: RunRecord, onset: number | undefined): Mark[] {
  if (evaluations.length < 3) return [];
  const showsOnset = onset !== undefined && onset !== best && onset !== evaluations[0]?.step;
  return [
    ...(best === undefined ? [] : [{ x: best, label: "best" }]),
    ...(showsOnset ? [{ x: onset, label: "over-optimises" }] : []),
  ];
}

/** Why the run stopped early, or the early-stop rule if it did not. Empty for a run without a rule. */
function ending({ settings, stopped, best, metrics }: RunRecord): string {
  const { early_stop: rule } = settings;
  if (rule === null) return "";
  const step = metrics.at(-1)?.step;
  const bestText = best === undefined || best === step ? "" : ` The best checkpoint is step ${best}.`;
  return stopped
    ? `The run stopped early, after step ${step} of ${settings.train.steps}: ${stopText(stopped, settings)}.${bestText} `
    : `${ruleText(rule, settings)}${bestText} `;
}

/** A chart for each part of a combined reward, before scale and weight are applied. */
function parts({ metrics }: RunRecord): Html {
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
  found.push(["training images", String(metrics.at(-1)?.samples ?? 0)]);
  found.push(["training time", `${duration(seconds)}, ${duration(seconds / Math.max(1, metrics.length))} per step`]);
  found.push(["peak memory", `${(peak / 2 ** 30).toFixed(2)} GiB`]);
  return found.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`);
}

/**
 * A card for each evaluation prompt: for every seed, the first and the last image side by side, and those in between
 * below.
 */
function images({ shown, path, settings }: RunRecord): Html {
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
        ? html`<details><summary>during training</summary>${rows.map(({ strip }) => html`<div class="strip">${strip}</div>`)}</details>`
        : html``;
    return html`<article><h3>${prompt}</h3>${rows.map(({ ends }) => html`<div class="ends">${ends}</div>`)}${all}</article>`;
  });
  return html`<section><h2>Before and after</h2>
<p>${evaluationKind(settings) === "held-out" ? "Prompts that are not used for training" : "Evaluation prompts"}, sampled from the same
noise each time. The number is the reward.</p>
<div class="cards">${cards}</div>
<p class="legend">All images: <code>${join(path, runFiles.samples)}</code></p></section>`;
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
<p>In ComfyUI and A1111: copy <code>${stepFolder(step)}/${settings.name}.kohya.safetensors</code> to the folder
<code>models/loras</code> (A1111: <code>models/Lora</code>) and load it like any LoRA, with strength 1.</p>
</section>`;
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

function shellQuoted(text: string): string {
  return /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function signed(value: number): string {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
}
