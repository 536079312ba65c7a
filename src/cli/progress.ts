/** What a person sees while a run goes on. */
import { duration, format } from "../runs/format.js";
import type { StepMetrics, TrainObserver } from "../train/events.js";
import type { Precision } from "../train/precision.js";
import type { Terminal } from "./terminal.js";

export function progress(terminal: Terminal, reward: string): TrainObserver {
  let updates = 0;
  let pace = new Pace();
  return (event) => {
    switch (event.kind) {
      case "started": {
        const { plan, step } = event;
        updates = plan.updates;
        pace = new Pace();
        terminal.say(
          `${step === 0 ? "training" : `going on from step ${step} with`} ${plan.model}, ${reward} reward: ` +
            `${updates} steps of ${plan.samplesPerUpdate} pictures, ${plan.trainableParameters.toLocaleString("en")} parameters learn${IN_PRECISION[plan.precision]}`,
        );
        return;
      }
      case "evaluated": {
        const { mean, std, rewards } = event.result;
        // Later ones come with their step.
        if (event.step === 0) terminal.say(evaluationLine(mean, std, `the model as it is, ${rewards.length} pictures`));
        return;
      }
      case "stepped": {
        pace.add(event.metrics.seconds);
        const line = stepLine(event.metrics, updates, pace.remaining(updates - event.metrics.step));
        if (terminal.isTTY) terminal.update(line);
        else terminal.say(line);
        const { step, eval_reward_mean: mean, eval_reward_std: std } = event.metrics;
        if (mean !== undefined && std !== undefined) terminal.say(evaluationLine(mean, std, `after step ${step}`));
        return;
      }
      case "checkpointed":
        if (!terminal.isTTY) terminal.say(`  saved step ${event.step}`);
        return;
      case "warned":
        terminal.say(`warning: ${event.message}`);
        return;
      case "finished":
        return;
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

function evaluationLine(mean: number, std: number, when: string): string {
  return `  evaluation reward ${format(mean)} ± ${format(std)}, ${when}`;
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

/** Steps differ (random truncation, evaluations between them): the mean of the wall time since the start is steadiest. */
class Pace {
  readonly #start = performance.now();
  #steps = 0;
  #stepSeconds = 0;

  add(seconds: number): void {
    this.#steps++;
    this.#stepSeconds += seconds;
  }

  /** Seconds that `steps` more will take. */
  remaining(steps: number): number {
    const wall = (performance.now() - this.#start) / 1000;
    return (Math.max(wall, this.#stepSeconds) / Math.max(1, this.#steps)) * steps;
  }
}
