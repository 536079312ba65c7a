import type { Command } from "commander";
import { type Cluster, together } from "../cluster/index.js";
import { loadSettings, type SettingsPart, trackerNames } from "../config/index.js";
import { InputError } from "../errors/index.js";
import {
  adapterPath,
  bestStep,
  checkpointFolder,
  type EvaluationRecord,
  readEvaluations,
  readHistory,
  samplesFolder,
  savedSteps,
} from "../runs/record/index.js";
import { format, monitorTitle, percent, stopText, writeReport } from "../runs/report/index.js";
import { RunFolder } from "../runs/run-folder.js";
import { Trackers } from "../runs/trackers/index.js";
import { observers, type TrainResult, train } from "../train/index.js";
import { fetchProgress } from "./fetch-progress.js";
import { interruptible } from "./interrupt.js";
import { commonOptions, list, overridesOf, type SettingsOptions, settingsOptions } from "./options.js";
import { progress } from "./progress.js";
import { withRanks } from "./ranks.js";
import type { Terminal } from "./terminal.js";

interface TrainCommandOptions extends SettingsOptions {
  resume?: string;
}

export function trainCommand(root: Command, terminal: Terminal): void {
  const command = root
    .command("train")
    .summary("fine-tune a model on a reward")
    .description(
      "Fine-tune a model on a reward, and write a run's folder: metrics, pictures, checkpoints and report.html.\n" +
        "Ctrl+C finishes the step and saves; --resume goes on from there.",
    )
    .argument("[recipe]", "a recipe's name, or a YAML file", undefined)
    .option("--steps <n>", "how many updates to train for")
    .option("--out <folder>", "the run's folder (default: runs/<recipe>-<n>)")
    .option("--resume <folder>", "go on with the run in this folder")
    .option("--eval-prompts <list>", "what evaluation draws, given like --prompts")
    .option("--adapter <path>", START_HELP)
    .option("--track <name>", `also watch the run in ${list(trackerNames)}; may be repeated`, collect);
  commonOptions(settingsOptions(command))
    .addHelpText(
      "after",
      `
Examples:
  alignprop train                                     the embedded model, the aesthetic reward
  alignprop train --reward compressibility --steps 40
  alignprop train my-recipe.yaml --model ./stable-diffusion-v1-5 --out runs/mine
  alignprop train clip --prompts foxes.txt --template "a photo of {}" --negative-prompt blurry
  alignprop train --set lora.rank=8 --set estimator.truncation.mode=per-step
  alignprop train --set lora.targets=[attention,feed-forward] --set lora.rank=8
  alignprop train --adapter runs/default-1 --reward clip   a new run from that one's adapter
  alignprop train --set trainable=unet --set optimizer.learning_rate=1e-5
  alignprop train --track tensorboard --track wandb   watch it there as well
  alignprop train --resume runs/default-1 --steps 80  go on, and further`,
    )
    .action(async (recipe: string | undefined, options: TrainCommandOptions) => {
      await withRanks(terminal, options.verbose === true, async (cluster) => {
        const warn = (message: string) => cluster.rank === 0 && terminal.say(`warning: ${message}`);
        const run = await together(cluster, () => openRun(recipe, options, cluster, warn));
        await trainInto(run, terminal, options.json === true, cluster);
      });
    });
}

function collect(name: string, before: readonly string[] = []): string[] {
  return [...before, name];
}

async function openRun(
  recipe: string | undefined,
  options: TrainCommandOptions,
  { rank, size }: Cluster,
  warn: (message: string) => void,
): Promise<RunFolder> {
  const overrides = overridesOf(options);
  if (options.resume === undefined) {
    const settings = await withStart(await loadSettings({ recipe, overrides, devices: size, warn }));
    return rank === 0 ? RunFolder.plan(settings) : RunFolder.elsewhere(settings);
  }
  const given = [
    recipe !== undefined && `the recipe ${recipe}`,
    options.out && "--out",
    options.adapter && "--adapter",
  ];
  const conflicting = given.find((option) => option);
  if (conflicting) {
    throw new InputError(
      "usage",
      `--resume ${options.resume}: a run goes on in its own folder with its own recipe; leave out ${conflicting}`,
    );
  }
  return RunFolder.resume(options.resume, overrides);
}

export const START_HELP =
  "start from this adapter: a run (its best checkpoint), one of its checkpoints, or a LoRA file";

/** A run's folder to start from becomes the checkpoint that it stands for now: another may be its best one later. */
export async function withStart<S extends SettingsPart<"lora">>(settings: S): Promise<S> {
  const { lora } = settings;
  return lora.start === null ? settings : { ...settings, lora: { ...lora, start: await adapterPath(lora.start) } };
}

async function trainInto(run: RunFolder, terminal: Terminal, json: boolean, cluster: Cluster): Promise<void> {
  if (cluster.rank > 0) {
    await trainSilently(run, terminal, cluster);
    return;
  }
  const trackers = await Trackers.open(run, {
    warn: (message) => terminal.say(`warning: ${message}`),
    tell: (message) => terminal.say(message),
  });
  const listener = observers(run.observe, trackers.observe, progress(terminal, run.settings));
  let result: TrainResult;
  try {
    const finishing = cluster.size === 1 ? "Finishing this step and saving" : "Saving the last step on all ranks";
    result = await interruptible(terminal, finishing, (signal) =>
      train(run.settings, listener, { resume: run.resumeFrom, signal, onFetch: fetchProgress(terminal), cluster }),
    );
  } catch (error) {
    // Whatever ended it, what was done so far is worth a look.
    if (run.started) await reportSoFar(run, terminal);
    await trackers.end("failed");
    throw error;
  }
  const outcome = await outcomeOf(run, result, trackers.places);
  if (json) terminal.print(JSON.stringify(outcome));
  else printOutcome(outcome, run.settings, terminal);
}

/** Takes part in a run that rank 0 writes down. */
async function trainSilently({ settings, resumeFrom }: RunFolder, terminal: Terminal, cluster: Cluster): Promise<void> {
  await interruptible(terminal, "Ending", (signal) =>
    train(settings, () => {}, { resume: resumeFrom, signal, cluster }),
  );
}

async function reportSoFar(run: RunFolder, terminal: Terminal): Promise<void> {
  try {
    await writeReport(run.path);
    terminal.say(`report so far: ${run.report}`);
  } catch {
    // The failure that is on its way up matters more.
  }
}

/** What `--json` prints. */
async function outcomeOf(run: RunFolder, { stopped, best: _, ...result }: TrainResult, watched: Trackers["places"]) {
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
    trackers: watched,
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

type Outcome = Awaited<ReturnType<typeof outcomeOf>>;

function printOutcome(
  outcome: Outcome,
  settings: SettingsPart<"reward" | "evaluation" | "early_stop">,
  terminal: Terminal,
): void {
  const { run, interrupted, step, steps, before, after, checkpoint, best_checkpoint: best, report } = outcome;
  if (outcome.early_stop !== null)
    terminal.print(`Stopped early after step ${step} of ${steps}: ${outcome.early_stop}.`);
  if (interrupted) {
    terminal.print(`Stopped after step ${step} of ${steps}.`);
    if (checkpoint !== null) terminal.print(`go on     alignprop train --resume ${run}`);
  }
  if (before !== null && after !== null && after.step > before.step) {
    const gain = (after.mean - before.mean) / before.std;
    const inDeviations =
      before.std > 0 ? ` (${gain < 0 ? "" : "+"}${gain.toFixed(1)} standard deviations of the base model)` : "";
    terminal.print(
      `reward    ${format(before.mean)} → ${format(after.mean)} on the evaluation's prompts${inDeviations}`,
    );
  }
  printWatched(outcome, settings, terminal);
  terminal.print(`report    ${report}`);
  if (after !== null) terminal.print(`pictures  ${samplesFolder(run, after.step)}`);
  if (checkpoint !== null) terminal.print(`saved     ${checkpoint}`);
  if (best !== null && best !== checkpoint) terminal.print(`best      ${best}`);
  for (const [name, place] of Object.entries(outcome.trackers)) terminal.print(`${name.padEnd(9)} ${place}`);
}

/** What was watched: of the model as it was, after the best checkpoint and after the last step. */
function printWatched(
  { before, best, after }: Outcome,
  settings: SettingsPart<"reward" | "evaluation" | "early_stop">,
  terminal: Terminal,
): void {
  const seen = [before, best === null || best.step === after?.step ? null : best, after].filter(
    (each) => each !== null,
  );
  const line = (value: (each: NonNullable<typeof after>) => number | undefined) =>
    seen
      .flatMap((each) => {
        const found = value(each);
        return found === undefined
          ? []
          : [`${format(found)}${each === best && each !== after ? ` (step ${each.step})` : ""}`];
      })
      .join(" → ");
  const heldOut = line(({ held_out }) => held_out?.mean);
  if (heldOut !== "") terminal.print(`held out  ${heldOut}: ${monitorTitle("held-out", settings)}`);
  const diversity = line((each) => each.diversity);
  const [first, last] = [before?.diversity, after?.diversity];
  const share = first && last !== undefined ? `: ${percent(last / first)} of the base model's` : "";
  if (diversity !== "") terminal.print(`diversity ${diversity}${share}`);
}
