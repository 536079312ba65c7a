/** The evaluation images of a run before and after training. */
import { join } from "node:path";
import { type RunRecord, runFiles, type ShownEvaluation } from "../record/index.js";
import { format } from "./format.js";
import { type Html, html } from "./html.js";
import { evaluationKind } from "./summary.js";

/**
 * A card for each evaluation prompt: for every seed, the first and the last image side by side, and those in between
 * below.
 */
export function images({ shown, path, settings }: RunRecord): Html {
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
