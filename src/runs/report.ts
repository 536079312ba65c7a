/** `report.html`: what a run did, in one file with its pictures and charts inside, made from the run's folder alone. */
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import type { StepMetrics } from "../train/events.js";
import { loadSettings } from "../train/load-settings.js";
import type { Settings } from "../train/settings.js";
import { writeFileAtomic } from "../weights/atomic.js";
import { lineChart } from "./chart.js";
import { savedSteps } from "./checkpoints.js";
import { leaves } from "./config.js";
import { duration, format } from "./format.js";
import { type Html, html } from "./html.js";
import { checkpointFolder, runFiles, samplesFolder, stepFolder } from "./layout.js";
import { readMetrics } from "./metrics.js";
import { reportPage } from "./report-page.js";
import { type EvaluationSummary, readEvaluations, readSamples } from "./samples.js";

interface Run {
  readonly path: string;
  readonly settings: Settings;
  readonly metrics: readonly StepMetrics[];
  /** In order of steps; the first is the model as it was. */
  readonly evaluations: readonly EvaluationSummary[];
  /** Some of the evaluations with their pictures: the first, the last, and a few between. */
  readonly shown: readonly ShownEvaluation[];
  readonly checkpoints: readonly number[];
}

interface ShownEvaluation {
  readonly step: number;
  readonly samples: readonly { prompt: string; seed: number; reward: number; png: string }[];
}

/** A report stays a file that opens at once and can be sent, however long the run and however many its prompts. */
const most = { pictures: 24, evaluations: 8, points: 600, settingsItems: 12 };

export async function writeReport(path: string): Promise<void> {
  const run = await readRun(path);
  await writeFileAtomic(join(path, runFiles.report), renderReport(run));
}

async function readRun(path: string): Promise<Run> {
  const evaluations = await readEvaluations(path);
  const shown: ShownEvaluation[] = [];
  for (const { step } of evenly(evaluations, most.evaluations)) {
    const samples = [];
    for (const { file, ...entry } of (await readSamples(path, step)).slice(0, most.pictures)) {
      const png = await readFile(join(samplesFolder(path, step), basename(file)), "base64");
      samples.push({ ...entry, png });
    }
    shown.push({ step, samples });
  }
  return {
    path,
    settings: await loadSettings({ recipe: join(path, runFiles.config) }),
    metrics: await readMetrics(path),
    evaluations,
    shown,
    checkpoints: await savedSteps(path),
  };
}

/** At most `count` of the items, the first and the last among them. */
function evenly<T>(items: readonly T[], count: number): T[] {
  if (items.length <= count) return [...items];
  return Array.from({ length: count }, (_, i) => items[Math.round((i * (items.length - 1)) / (count - 1))] as T);
}

function renderReport(run: Run): string {
  const { settings } = run;
  const metrics = evenly(run.metrics, most.points);
  const title = `${settings.name}: ${settings.reward.name} reward`;
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
${lineChart({
  title: "Reward over steps",
  width: 920,
  height: 300,
  series: [
    {
      label: "training",
      className: "train",
      points: metrics.map((row) => ({ x: row.step, y: row.reward_mean, spread: row.reward_std })),
    },
    {
      label: "held-out",
      className: "eval",
      dots: true,
      points: run.evaluations.map(({ step, mean, std }) => ({ x: step, y: mean, spread: std })),
    },
  ],
})}
<p class="legend"><span class="key train"></span>training prompts <span class="key eval"></span>held-out prompts, on the
same noise each time. Bands: one standard deviation. Across: steps.</p>
</section>
<section class="pair">
<div><h2>Loss</h2>${lineChart({ title: "Loss over steps", series: [{ label: "loss", className: "train", points: metrics.map((row) => ({ x: row.step, y: row.loss })) }] })}</div>
<div><h2>Gradient norm</h2>${lineChart({ title: "Gradient norm over steps", series: [{ label: "gradient norm", className: "train", points: metrics.map((row) => ({ x: row.step, y: row.grad_norm })) }] })}</div>
</section>
${usage(run)}
<section>
<h2>Settings</h2>
<table>${[...leaves(settings)].map(([key, value]) => html`<tr><th>${key}</th><td>${settingText(value)}</td></tr>`)}</table>
</section>`,
  );
}

function headline({ settings, metrics, evaluations }: Run): string {
  const [before, after] = [evaluations[0], evaluations.at(-1)];
  const steps = metrics.at(-1)?.step ?? 0;
  if (before === undefined || after === undefined || after.step === before.step) {
    return `${settings.reward.name} reward after ${steps} steps`;
  }
  const gain = after.mean - before.mean;
  return (
    `In ${after.step - before.step} steps the ${settings.reward.name} reward on held-out prompts ` +
    `${gain > 0 ? "rose" : gain < 0 ? "fell" : "stayed"} from ${format(before.mean)} to ${format(after.mean)}` +
    `${before.std > 0 ? `, ${signed(gain / before.std)} standard deviations of the base model` : ""}.`
  );
}

function tiles({ metrics, evaluations }: Run): Html[] {
  const [before, after] = [evaluations[0], evaluations.at(-1)];
  const seconds = metrics.reduce((sum, row) => sum + row.seconds, 0);
  const peak = Math.max(0, ...metrics.map((row) => row.peak_rss_bytes));
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
function pictures({ shown, path }: Run): Html {
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
<p>Prompts that training never sees, drawn from the same noise each time; the number is the reward.</p>
<div class="cards">${cards}</div>
<p class="legend">All pictures: <code>${join(path, runFiles.samples)}</code></p></section>`;
}

function figure(sample: ShownEvaluation["samples"][number] | undefined, caption: string): Html {
  if (sample === undefined) return html``;
  return html`<figure><img src="data:image/png;base64,${sample.png}" alt="${sample.prompt}, seed ${sample.seed}, ${caption}" title="seed ${sample.seed}"><figcaption>${caption} <b>${format(sample.reward)}</b></figcaption></figure>`;
}

function usage({ path, settings, checkpoints }: Run): Html {
  const last = checkpoints.at(-1);
  if (last === undefined) return html``;
  const adapter = checkpointFolder(path, last);
  const prompt = settings.prompts.template.replaceAll("{}", () => settings.prompts.eval[0] ?? "");
  return html`<section>
<h2>Use the adapter</h2>
<p>From the command line:</p>
<pre>alignprop generate --prompt ${JSON.stringify(prompt)} --adapter ${adapter}</pre>
<p>In diffusers:</p>
<pre>from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained(${JSON.stringify(settings.model)})
pipe.load_lora_weights(${JSON.stringify(adapter)})
image = pipe(${JSON.stringify(prompt)}, num_inference_steps=${settings.sampling.steps}, guidance_scale=${settings.sampling.guidance_scale}).images[0]</pre>
<p>In ComfyUI and A1111: put <code>${stepFolder(last)}/${settings.name}.kohya.safetensors</code> into the folder
<code>models/loras</code> (A1111: <code>models/Lora</code>) and load it as any LoRA, strength 1.</p>
</section>`;
}

/** Long lists (prompts) are shortened; `config.yaml` has them in full. */
function settingText(json: string): string {
  const value: unknown = JSON.parse(json);
  if (value === null) return "automatic";
  if (!Array.isArray(value)) return String(value) || "(empty)";
  const rest = value.length > most.settingsItems ? ` … and ${value.length - most.settingsItems} more` : "";
  return value.slice(0, most.settingsItems).join(", ") + rest;
}

function signed(value: number): string {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
}
