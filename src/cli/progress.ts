/** What a person sees while a run goes on. */

import type { SettingsPart } from "../config/index.js";
import type { Precision } from "../pipeline/index.js";
import { rewardTitle } from "../rewards/index.js";
import { Pace } from "../runs/pace.js";
import { duration, format, percent, stopText } from "../runs/report/index.js";
import type { EvaluationResult } from "../scoring/index.js";
import type { StepMetrics, TrainObserver } from "../train/index.js";
import type { Terminal } from "./terminal.js";

export function progress(
  terminal: Terminal,
  settings: SettingsPart<"reward" | "evaluation" | "early_stop">,
): TrainObserver {
  const reward = rewardTitle(settings.reward);
  const heldOut = settings.evaluation.held_out && rewardTitle(settings.evaluation.held_out);
  let updates = 0;
  let base: number | undefined;
  let evaluated: string | undefined;
  let pace = new Pace();
  return (event) => {
    switch (event.kind) {
      case "started": {
        const { plan, step } = event;
        updates = plan.steps;
        base = event.baseDiversity;
        pace = new Pace();
        terminal.say(
          `${step === 0 ? "training" : `going on from step ${step} with`} ${plan.model}, ${reward} reward: ` +
            `${updates} steps of ${plan.samplesPerStep} pictures, ${plan.trainableParameters.toLocaleString("en")} parameters learn${IN_PRECISION[plan.precision]}`,
        );
        return;
      }
      case "evaluated": {
        const { result } = event;
        base ??= event.step === 0 ? result.diversity?.mean : undefined;
        const when =
          event.step === 0 ? `the model as it is, ${result.rewards.length} pictures` : `after step ${event.step}`;
        const line = evaluationLine(result, when, heldOut, base);
        // Later ones come after their step.
        if (event.step === 0) terminal.say(line);
        else evaluated = line;
        return;
      }
      case "stepped": {
        pace.add(event.metrics.seconds);
        const line = stepLine(event.metrics, updates, pace.remaining(updates - event.metrics.step));
        if (terminal.isTTY) terminal.update(line);
        else terminal.say(line);
        if (evaluated !== undefined) terminal.say(evaluated);
        evaluated = undefined;
        return;
      }
      case "checkpointed":
        if (!terminal.isTTY) terminal.say(`  saved step ${event.step}`);
        return;
      case "warned":
        terminal.say(`warning: ${event.message}`);
        return;
      case "finished": {
        const { stopped, step, best } = event.result;
        if (stopped) {
          const kept = best === undefined ? "" : `; the best is step ${best}`;
          terminal.say(`early stop after step ${step}: ${stopText(stopped, settings)}${kept}`);
        }
        return;
      }
    }
  };
}

const IN_PRECISION: Readonly<Record<Precision, string>> = { float32: "", float16: ", the U-Net computes in float16" };

/** " (aesthetic 4.31, clip 0.24)" of a combination. */
function partsText(parts: StepMetrics["rewards"]): string {
  if (parts === undefined) return "";
  const each = Object.entries(parts).map(([label, value]) => `${label} ${format(value)}`);
  return ` (${each.join(", ")})`;
}

/** `base`: the base model's diversity, where it is known. */
function evaluationLine(
  { mean, std, heldOut, diversity }: EvaluationResult,
  when: string,
  heldOutTitle: string | null,
  base: number | undefined,
): string {
  const share =
    base && diversity && diversity.mean !== base ? ` (${percent(diversity.mean / base)} of the base's)` : "";
  return [
    `  evaluation reward ${format(mean)} ± ${format(std)}`,
    ...(heldOut ? [`held-out ${heldOutTitle} ${format(heldOut.mean)} ± ${format(heldOut.std)}`] : []),
    ...(diversity ? [`diversity ${format(diversity.mean)}${share}`] : []),
    when,
  ].join(", ");
}

export function stepLine(metrics: StepMetrics, updates: number, remaining: number): string {
  const { step, reward_mean, reward_std, loss, grad_norm, loss_scale, peak_rss_bytes, seconds } = metrics;
  const width = String(updates).length;
  return [
    `step ${String(step).padStart(width)}/${updates}`,
    `reward ${format(reward_mean)} ± ${format(reward_std)}${partsText(metrics.rewards)}`,
    `loss ${format(loss)}`,
    grad_norm === null ? `skipped: the gradient overflows at scale ${loss_scale}` : `grad ${format(grad_norm)}`,
    `${(peak_rss_bytes / 2 ** 30).toFixed(2)} GiB`,
    `${duration(seconds)}/step`,
    step < updates ? `${duration(remaining)} left` : "done",
  ].join("  ");
}
