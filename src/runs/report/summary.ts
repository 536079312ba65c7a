/** The result of a run in words and numbers: the headline, the tiles and how the run ended. */
import type { SettingsPart } from "../../config/index.js";
import { rewardTitle } from "../../rewards/index.js";
import type { RunRecord } from "../record/index.js";
import { duration, format } from "./format.js";
import { type Html, html } from "./html.js";
import { ruleText, stopText } from "./monitor-text.js";

export function headline({ settings, metrics, evaluations }: RunRecord): string {
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

export function evaluationKind({ prompts }: SettingsPart<"prompts">): "held-out" | "evaluation" {
  return prompts.eval.some((prompt) => prompts.train.includes(prompt)) ? "evaluation" : "held-out";
}

export function tiles({ metrics, evaluations }: RunRecord): Html[] {
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

/** Why the run stopped early, or the early-stop rule if it did not. Empty for a run without a rule. */
export function ending({ settings, stopped, best, metrics }: RunRecord): string {
  const { early_stop: rule } = settings;
  if (rule === null) return "";
  const step = metrics.at(-1)?.step;
  const bestText = best === undefined || best === step ? "" : ` The best checkpoint is step ${best}.`;
  return stopped
    ? `The run stopped early, after step ${step} of ${settings.train.steps}: ${stopText(stopped, settings)}.${bestText} `
    : `${ruleText(rule, settings)}${bestText} `;
}

function signed(value: number): string {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
}
