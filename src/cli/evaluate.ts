import { join } from "node:path";
import type { Command } from "commander";
import { loadSettings, type SettingsPart } from "../config/index.js";
import { InputError } from "../errors/index.js";
import { mixAdapters } from "../pipeline/index.js";
import { rewardTitle } from "../rewards/index.js";
import {
  openAdapter,
  openTuned,
  recipeOfAdapter,
  requireEmpty,
  requireWritable,
  type Tuned,
  writeEvaluation,
} from "../runs/record/index.js";
import { format } from "../runs/report/index.js";
import { type EvaluationResult, evaluate } from "../scoring/index.js";
import { fetchProgress } from "./fetch-progress.js";
import { interruptible } from "./interrupt.js";
import { formOption, type MixingOptions } from "./mix.js";
import {
  annealOption,
  commonOptions,
  number,
  overridesOf,
  requireTuned,
  type SettingsOptions,
  settingsOptions,
} from "./options.js";
import type { Terminal } from "./terminal.js";

interface EvaluateCommandOptions extends SettingsOptions, Partial<MixingOptions> {
  count?: number;
  mix?: string;
  anneal?: number;
}

export function evaluateCommand(root: Command, terminal: Terminal): void {
  const command = root
    .command("evaluate")
    .summary("reward pictures of the held-out prompts")
    .description(
      "Draw the recipe's held-out prompts, or others, on fixed noise, with an adapter or without, and reward them. " +
        "Without a recipe, an adapter is evaluated as in its own run. Image i has the noise of the seed --seed + i.",
    )
    .argument("[recipe]", "a recipe's name, or a YAML file such as a run's config.yaml", undefined)
    .option("--adapter <path>", "a run (its best checkpoint), one of its checkpoints, or a LoRA file")
    .option("--mix <path>", "mix the adapter with another one, or with the base model: base")
    .option("--coefficient <x>", "the share of --adapter in the mix: 1 is all of it", number({ min: -100, max: 100 }))
    .addOption(formOption())
    .addOption(annealOption())
    .option("--count <n>", "pictures of each prompt", number({ min: 1, max: 10_000, whole: true }))
    .option("--out <folder>", "keep the pictures, index.json and evaluation.json here");
  commonOptions(settingsOptions(command))
    .addHelpText(
      "after",
      `
Examples:
  alignprop evaluate                                  the embedded model as it is
  alignprop evaluate --adapter runs/default-1
  alignprop evaluate runs/default-1/config.yaml       the base model, as that run evaluated it
  alignprop evaluate --adapter runs/default-1 --count 8 --out pictures
  alignprop evaluate --prompts mine.txt --template "a photo of a {}" --negative-prompt blurry
  alignprop evaluate --adapter runs/default-1 --mix base --coefficient 0.5`,
    )
    .action((recipe: string | undefined, options: EvaluateCommandOptions) => evaluateInto(recipe, options, terminal));
}

async function evaluateInto(recipe: string | undefined, options: EvaluateCommandOptions, terminal: Terminal) {
  const { out, anneal } = options;
  requireTuned(options);
  if (out !== undefined) {
    await requireEmpty(out);
    await requireWritable(out);
  }
  // Here --adapter is what is evaluated, not a setting.
  const { out: _, adapter: __, count, ...settable } = options;
  const trainedWith = options.adapter === undefined ? undefined : await recipeOfAdapter(options.adapter);
  const warn = (message: string) => terminal.say(`warning: ${message}`);
  const settings = await loadSettings({
    recipe: recipe ?? trainedWith,
    warn,
    overrides: [
      ...overridesOf(settable, { prompts: "prompts.eval", seed: "evaluation.seed" }),
      ...(count === undefined ? [] : [{ path: ["evaluation", "seeds_per_prompt"], value: count, origin: "--count" }]),
    ],
  });
  const tuned = await tunedBy(options, warn);
  const result = await interruptible(terminal, "Stopping after this batch", (signal) =>
    evaluate(settings, { ...tuned, anneal, signal, warn, onFetch: fetchProgress(terminal) }),
  );
  const { rewards, mean, std, heldOut, diversity } = result;
  const { model, sampling, reward, prompts, evaluation } = settings;
  const summary = {
    reward: rewardTitle(reward),
    mean,
    std,
    ...(heldOut &&
      evaluation.held_out && {
        held_out: { reward: rewardTitle(evaluation.held_out), mean: heldOut.mean, std: heldOut.std },
      }),
    ...(diversity && { diversity: diversity.mean }),
    pictures: rewards.length,
    model,
    adapter: options.adapter ?? null,
    ...(options.mix !== undefined && { mix: options.mix, coefficient: options.coefficient, form: options.form }),
    ...(anneal !== undefined && { anneal }),
    sampling,
    negative_prompt: prompts.negative,
  };
  const names = out === undefined ? undefined : await writeEvaluation(out, result, summary);
  if (options.json) terminal.print(JSON.stringify({ ...summary, samples: drawSamples(result, out, names) }));
  else printEvaluation(result, settings, terminal);
}

async function tunedBy(
  { adapter, mix, coefficient, form }: EvaluateCommandOptions,
  warn: (message: string) => void,
): Promise<Partial<Tuned>> {
  if (mix === undefined) {
    if (coefficient !== undefined)
      throw new InputError("usage", "--coefficient: belongs to --mix; add --mix base or --mix <path>");
    return adapter === undefined ? {} : await openTuned(adapter, warn);
  }
  if (adapter === undefined)
    throw new InputError("usage", "--mix: needs the adapter that is mixed; add --adapter <path>");
  if (coefficient === undefined)
    throw new InputError("usage", "--mix: needs the adapter's share; add --coefficient <x>, such as 0.5");
  const open = (path: string) => openAdapter(path, "--mix blends adapters", warn);
  return {
    adapter: mixAdapters(await open(adapter), mix === "base" ? mix : await open(mix), coefficient, { form }),
  };
}

/** For `--json`: each picture, with its file where the pictures are kept. */
function drawSamples(
  { prompts, seeds, rewards, heldOut, diversity }: EvaluationResult,
  out = "",
  names?: readonly string[],
) {
  return prompts.map((prompt, i) => ({
    prompt,
    seed: seeds[i],
    reward: rewards[i],
    ...(heldOut && { held_out: heldOut.rewards[i] }),
    ...(diversity && { diversity: diversity.distances[i] }),
    ...(names && { file: join(out, names[i] as string) }),
  }));
}

function printEvaluation(
  { prompts, seeds, rewards, mean, std, heldOut, diversity }: EvaluationResult,
  { reward, evaluation }: SettingsPart<"reward" | "evaluation">,
  terminal: Terminal,
) {
  const width = Math.max(...prompts.map((prompt) => prompt.length));
  const title = evaluation.held_out && rewardTitle(evaluation.held_out);
  for (const [i, prompt] of prompts.entries()) {
    const held = heldOut ? `  ${title} ${format(heldOut.rewards[i] as number)}` : "";
    terminal.print(`${prompt.padEnd(width)}  seed ${seeds[i]}  ${format(rewards[i] as number)}${held}`);
  }
  terminal.print(`${rewardTitle(reward)} reward ${format(mean)} ± ${format(std)} over ${rewards.length} pictures`);
  if (heldOut) terminal.print(`held-out ${title} reward ${format(heldOut.mean)} ± ${format(heldOut.std)}`);
  if (diversity) terminal.print(`diversity ${format(diversity.mean)}`);
}
