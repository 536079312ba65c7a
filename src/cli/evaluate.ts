import { join } from "node:path";
import type { Command } from "commander";
import { loadSettings, type SettingsPart } from "../config/index.js";
import { InputError } from "../errors/index.js";
import { mixAdapters } from "../pipeline/index.js";
import { rewardTitle } from "../rewards/index.js";
import {
  type AdapterChoice,
  openAdapter,
  openAllTuned,
  recipeOfAdapters,
  requireEmpty,
  requireWritable,
  type Tuned,
  type TunedOptions,
  writeEvaluation,
} from "../runs/record/index.js";
import { format } from "../runs/report/index.js";
import { type EvaluationResult, evaluate } from "../scoring/index.js";
import { fetchProgress } from "./fetch-progress.js";
import { interruptible } from "./interrupt.js";
import { formOption, type MixingOptions } from "./mix.js";
import {
  annealOption,
  collectAdapter,
  commonOptions,
  HELP,
  number,
  overridesOf,
  requireTuned,
  type SettingsOptions,
  settingsOptions,
} from "./options.js";
import type { Terminal } from "./terminal.js";
import { count as counted } from "./text.js";

interface EvaluateCommandOptions extends Omit<SettingsOptions, "adapter">, Partial<MixingOptions> {
  adapter?: AdapterChoice[];
  count?: number;
  mix?: string;
  anneal?: number;
}

export function evaluateCommand(root: Command, terminal: Terminal): void {
  const command = root
    .command("evaluate")
    .summary("generate images for held-out prompts and score them")
    .description(
      "Generate images for the recipe's held-out prompts, or for others, with or without an adapter, and score them with the " +
        "reward. Without a recipe, an adapter is evaluated as in its own run. The noise is fixed: image i uses seed --seed + i.",
    )
    .argument("[recipe]", "name of a recipe, or path of a YAML file such as the config.yaml of a run", undefined)
    .option("--adapter <path>", HELP.adapters, collectAdapter)
    .option("--mix <path>", "mix --adapter with this adapter, or with the base model (base)")
    .option(
      "--coefficient <x>",
      "weight of --adapter in the mix; 1 leaves it unchanged",
      number({ min: -100, max: 100 }),
    )
    .addOption(formOption())
    .addOption(annealOption())
    .option("--count <n>", "number of images per prompt", number({ min: 1, max: 10_000, whole: true }))
    .option("--out <folder>", "write the images, index.json and evaluation.json here");
  commonOptions(settingsOptions(command, { seed: "seed of the first image" }))
    .addHelpText(
      "after",
      `
Examples:
  npx alignprop evaluate
  npx alignprop evaluate --adapter runs/default-1
  npx alignprop evaluate --adapter runs/default-1 --count 8 --out images
  npx alignprop evaluate --prompts mine.txt --template "a photo of a {}" --negative-prompt blurry
  npx alignprop evaluate --adapter runs/default-1 --mix base --coefficient 0.5

Evaluate the base model exactly as a run did before its first step:
  npx alignprop evaluate runs/default-1/config.yaml`,
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
  // For this command, --out and --adapter are not settings.
  const { out: _, adapter: __, count, ...settable } = options;
  const trainedWith = await recipeOfAdapters(options.adapter);
  const warn = (message: string) => terminal.say(`warning: ${message}`);
  const settings = await loadSettings({
    recipe: recipe ?? trainedWith,
    overrides: [
      ...overridesOf(settable, { prompts: "prompts.eval", seed: "evaluation.seed" }),
      ...(count === undefined ? [] : [{ path: ["evaluation", "seeds_per_prompt"], value: count, origin: "--count" }]),
    ],
    warn,
  });
  const onFetch = fetchProgress(terminal);
  const tuned = await tunedBy(options, { loading: settings.loading, warn, onFetch });
  const result = await interruptible(terminal, "Stopping after this batch", (signal) =>
    evaluate(settings, { ...tuned, anneal, signal, warn, onFetch }),
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
    images: rewards.length,
    model,
    adapter: shownAdapters(options.adapter),
    ...(options.mix !== undefined && { mix: options.mix, coefficient: options.coefficient, form: options.form }),
    ...(anneal !== undefined && { anneal }),
    sampling,
    negative_prompt: prompts.negative,
  };
  const names = out === undefined ? undefined : await writeEvaluation(out, result, summary);
  if (options.json) terminal.print(JSON.stringify({ ...summary, samples: samplesOf(result, out, names) }));
  else printEvaluation(result, settings, terminal);
}

/** One adapter as its path, several or weighted ones as a list. */
function shownAdapters(adapters: readonly AdapterChoice[] = []) {
  const [first] = adapters;
  return adapters.length > 1 || (first && first.weight !== 1) ? adapters : (first?.path ?? null);
}

async function tunedBy(
  { adapter = [], mix, coefficient, form }: EvaluateCommandOptions,
  opening: TunedOptions,
): Promise<Partial<Tuned>> {
  if (mix === undefined) {
    if (coefficient !== undefined)
      throw new InputError("usage", "--coefficient: is only used with --mix. Add --mix base or --mix <path>.", {
        option: "--coefficient",
        found: coefficient,
        missing: "--mix",
      });
    return openAllTuned(adapter, opening);
  }
  const [first, second] = adapter;
  if (first === undefined)
    throw new InputError("usage", `--mix ${mix}: there is no adapter to mix. Add --adapter <path>.`, {
      option: "--mix",
      found: mix,
      missing: "--adapter",
    });
  if (coefficient === undefined)
    throw new InputError("usage", `--mix ${mix}: the weight of the adapter is not given. Add --coefficient 0.5.`, {
      option: "--mix",
      found: mix,
      missing: "--coefficient",
    });
  if (second !== undefined || first.weight !== 1)
    throw new InputError(
      "usage",
      `--mix ${mix}: mixes one --adapter, whose weight is --coefficient. Leave the rest out.`,
      {
        option: "--mix",
        found: adapter.length,
        expected: 1,
      },
    );
  const open = (path: string) => openAdapter(path, "--mix blends adapters", opening);
  return {
    adapter: mixAdapters(await open(first.path), mix === "base" ? mix : await open(mix), coefficient, { form }),
  };
}

/** For `--json`: one entry per image, with its file if `out` is given. */
function samplesOf(
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
  terminal.print(
    `${rewardTitle(reward)} reward ${format(mean)} ± ${format(std)} over ${counted(rewards.length, "image")}`,
  );
  if (heldOut) terminal.print(`held-out ${title} reward ${format(heldOut.mean)} ± ${format(heldOut.std)}`);
  if (diversity) terminal.print(`diversity ${format(diversity.mean)}`);
}
