/** Progress of a training run. */

import type { SettingsPart } from "../config/index.js";
import type { Precision } from "../pipeline/index.js";
import { rewardTitle } from "../rewards/index.js";
import { Pace } from "../runs/pace.js";
import { duration, format, percent, stopText } from "../runs/report/index.js";
import type { EvaluationResult } from "../scoring/index.js";
import type { StepMetrics, TrainObserver } from "../train/index.js";
import type { Terminal } from "./terminal.js";
import { count } from "./text.js";

export function progress(
  terminal: Terminal,
  settings: SettingsPart<"reward" | "evaluation" | "early_stop">,
): TrainObserver {
  const reward = rewardTitle(settings.reward);
  const heldOut = settings.evaluation.held_out && rewardTitle(settings.evaluation.held_out);
  let steps = 0;
  let base: number | undefined;
  let evaluated: string | undefined;
  let pace = new Pace();
  return (event) => {
    switch (event.kind) {
      case "started": {
        const { plan, step } = event;
        steps = plan.steps;
        base = event.baseDiversity;
        pace = new Pace();
        terminal.say(
          `${step === 0 ? "training" : `continuing from step ${step} with`} ${plan.model}, ${reward} reward: ` +
            `${count(steps, "step")} of ${count(plan.samplesPerStep, "image")}, ${plan.trainableParameters.toLocaleString("en")} trainable parameters${IN_PRECISION[plan.precision]}`,
        );
        return;
      }
      case "evaluated": {
        const { result } = event;
        base ??= event.step === 0 ? result.diversity?.mean : undefined;
        const when =
          event.step === 0 ? `base model, ${count(result.rewards.length, "image")}` : `after step ${event.step}`;
        const line = evaluationLine(result, when, heldOut, base);
        // Later evaluations are shown below the line of their step.
        if (event.step === 0) terminal.say(line);
        else evaluated = line;
        return;
      }
      case "stepped": {
        pace.add(event.metrics.seconds);
        const line = stepLine(event.metrics, steps, pace.remaining(steps - event.metrics.step));
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
          const bestStep = best === undefined ? "" : `; the best checkpoint is step ${best}`;
          terminal.say(`early stop after step ${step}: ${stopText(stopped, settings)}${bestStep}`);
        }
        return;
      }
    }
  };
}

const IN_PRECISION: Readonly<Record<Precision, string>> = { float32: "", float16: ", U-Net in float16" };

/** " (aesthetic 4.31, clip 0.24)" for a combined reward, "" for a single one. */
function partsText(parts: StepMetrics["rewards"]): string {
  if (parts === undefined) return "";
  const each = Object.entries(parts).map(([label, value]) => `${label} ${format(value)}`);
  return ` (${each.join(", ")})`;
}

/** @param base diversity of the base model; undefined if it was not measured */
function evaluationLine(
  { mean, std, heldOut, diversity }: EvaluationResult,
  when: string,
  heldOutTitle: string | null,
  base: number | undefined,
): string {
  const share =
    base && diversity && diversity.mean !== base ? ` (${percent(diversity.mean / base)} of the base model's)` : "";
  return [
    `  evaluation reward ${format(mean)} ± ${format(std)}`,
    ...(heldOut ? [`held-out ${heldOutTitle} ${format(heldOut.mean)} ± ${format(heldOut.std)}`] : []),
    ...(diversity ? [`diversity ${format(diversity.mean)}${share}`] : []),
    when,
  ].join(", ");
}

function stepLine(metrics: StepMetrics, steps: number, remaining: number): string {
  const { step, reward_mean, reward_std, loss, grad_norm, loss_scale, peak_rss_bytes, seconds } = metrics;
  const width = String(steps).length;
  return [
    `step ${String(step).padStart(width)}/${steps}`,
    `reward ${format(reward_mean)} ± ${format(reward_std)}${partsText(metrics.rewards)}`,
    `loss ${format(loss)}`,
    grad_norm === null ? `skipped: the gradient overflowed at loss scale ${loss_scale}` : `grad ${format(grad_norm)}`,
    `${(peak_rss_bytes / 2 ** 30).toFixed(2)} GiB`,
    `${duration(seconds)}/step`,
    step < steps ? `${duration(remaining)} left` : "done",
  ].join("  ");
}
