/** The result of `alignprop train`: JSON for programs and a few lines for people. */
import type { SettingsPart } from "../config/index.js";
import {
  bestStep,
  checkpointFolder,
  type EvaluationRecord,
  readEvaluations,
  readHistory,
  samplesFolder,
  savedSteps,
} from "../runs/record/index.js";
import { format, monitorTitle, percent, stopText } from "../runs/report/index.js";
import type { RunFolder } from "../runs/run-folder.js";
import type { Trackers } from "../runs/trackers/index.js";
import type { TrainResult } from "../train/index.js";
import { shellCommand } from "./shell.js";
import type { Terminal } from "./terminal.js";

type Outcome = Awaited<ReturnType<typeof outcomeOf>>;
type Evaluation = NonNullable<ReturnType<typeof summaryOf>>;

/** The object that `--json` prints. */
export async function outcomeOf(
  run: RunFolder,
  { stopped, best: _, ...result }: TrainResult,
  trackers: Trackers["places"],
) {
  const { path, report, metrics, settings } = run;
  const evaluations = await readEvaluations(path);
  const saved = await savedSteps(path);
  const best = bestStep(saved, await readHistory(path, metrics), settings.early_stop);
  const last = saved.at(-1);
  const at = (step: number | undefined) => summaryOf(evaluations.find((evaluation) => evaluation.step === step));
  return {
    run: path,
    ...result,
    early_stop: stopped ? stopText(stopped, settings) : null,
    before: at(evaluations[0]?.step),
    after: at(evaluations.at(-1)?.step),
    best: at(best),
    last_step: metrics.at(-1) ?? null,
    checkpoint: last === undefined ? null : checkpointFolder(path, last),
    best_checkpoint: best === undefined ? null : checkpointFolder(path, best),
    report,
    trackers,
  };
}

function summaryOf(evaluation: EvaluationRecord | undefined) {
  if (evaluation === undefined) return null;
  const { step, mean, std, heldOut, diversity } = evaluation;
  return {
    step,
    mean,
    std,
    ...(heldOut && { held_out: { mean: heldOut.mean, std: heldOut.std } }),
    ...(diversity && { diversity: diversity.mean }),
  };
}

export function printOutcome(
  outcome: Outcome,
  settings: SettingsPart<"reward" | "evaluation" | "early_stop">,
  terminal: Terminal,
): void {
  const { run, interrupted, step, steps, before, after, checkpoint, best_checkpoint: best, report } = outcome;
  const line = (name: string, value: string) => terminal.print(`${name.padEnd(9)} ${value}`);
  if (outcome.early_stop !== null)
    terminal.print(`Stopped early after step ${step} of ${steps}: ${outcome.early_stop}.`);
  if (interrupted) {
    terminal.print(`Stopped after step ${step} of ${steps}.`);
    if (checkpoint !== null) line("continue", shellCommand("train", "--resume", run));
  }
  if (before !== null && after !== null && after.step > before.step) {
    const gain = (after.mean - before.mean) / before.std;
    const inDeviations =
      before.std > 0 ? ` (${gain < 0 ? "" : "+"}${gain.toFixed(1)} standard deviations of the base model)` : "";
    line("reward", `${format(before.mean)} → ${format(after.mean)} on the evaluation prompts${inDeviations}`);
  }
  for (const [name, value] of monitorLines(outcome, settings)) line(name, value);
  line("report", report);
  if (after !== null) line("images", samplesFolder(run, after.step));
  if (checkpoint !== null) line("saved", checkpoint);
  if (best !== null && best !== checkpoint) line("best", best);
  for (const [name, location] of Object.entries(outcome.trackers)) line(name, location);
}

/** Held-out reward and diversity: of the base model, of the best checkpoint and after the last step. */
function monitorLines(
  { before, best, after }: Outcome,
  settings: SettingsPart<"reward" | "evaluation" | "early_stop">,
): [name: string, value: string][] {
  const shown = [before, best === null || best.step === after?.step ? null : best, after].filter(
    (evaluation) => evaluation !== null,
  );
  const series = (monitored: (evaluation: Evaluation) => number | undefined) =>
    shown
      .flatMap((evaluation) => {
        const value = monitored(evaluation);
        if (value === undefined) return [];
        return [`${format(value)}${evaluation === best && evaluation !== after ? ` (step ${evaluation.step})` : ""}`];
      })
      .join(" → ");
  const heldOut = series(({ held_out }) => held_out?.mean);
  const diversity = series((evaluation) => evaluation.diversity);
  const [first, last] = [before?.diversity, after?.diversity];
  const share = first && last !== undefined ? `: ${percent(last / first)} of the base model's` : "";
  return [
    ...(heldOut === "" ? [] : [["held out", `${heldOut}: ${monitorTitle("held-out", settings)}`] as [string, string]]),
    ...(diversity === "" ? [] : [["diversity", `${diversity}${share}`] as [string, string]]),
  ];
}
