/** Options that several commands share, and the settings that they stand for. */
import { type Command, InvalidArgumentError, Option } from "commander";
import { type Override, parseSet } from "../config/index.js";
import { InputError } from "../errors/index.js";
import { isRewardFile, rewardNames } from "../rewards/index.js";
import { type AdapterChoice, adapterChoice } from "../runs/record/index.js";
import { list } from "./text.js";

export interface CommonOptions {
  json?: boolean;
  verbose?: boolean;
}

export interface SettingsOptions extends CommonOptions {
  model?: string;
  reward?: string;
  prompts?: string;
  evalPrompts?: string;
  template?: string;
  negativePrompt?: string;
  steps?: string;
  out?: string;
  seed?: string;
  device?: string;
  precision?: string;
  threads?: string;
  memory?: string;
  offline?: boolean;
  adapter?: string;
  track?: string[];
  set?: Override[];
}

export function commonOptions(command: Command): Command {
  return command
    .option("--json", "print the result or the error as JSON on stdout")
    .option("--verbose", "print the stack trace of an unexpected failure");
}

/** Descriptions of options that several commands have. */
export const HELP = {
  recipe: "name of a recipe, or path of a YAML file",
  steps: "number of training steps",
  prompts: "text file with one prompt per line (.txt), or name of a list such as animals",
  evalPrompts: "prompts of the evaluation; same forms as --prompts",
  template: 'sentence around each prompt, such as "a photo of a {}"',
  model: "folder, single file, or id on the Hugging Face hub such as org/name@revision",
  offline: "use only the local cache of the Hugging Face hub",
  adapter: "a run (its best checkpoint), one of its checkpoints, an adapter's file or folder, or its id on the hub",
  adapters:
    "a run (its best checkpoint), one of its checkpoints, an adapter's file or folder, or its id on the hub; with a weight: " +
    "PATH:0.7; repeatable",
  start:
    "adapter to start from: a run (its best checkpoint), one of its checkpoints, a LoRA file or folder, or its hub id",
  device: "cpu, cuda or webgpu",
  precision: "precision of the U-Net: auto, float32 or float16 (auto: float16 on a GPU)",
  threads: "number of CPU threads (default: one per core)",
  set: "any setting, such as sampling.height=512; repeatable",
  reward: list([...rewardNames, "an ONNX file (.onnx)", "a JavaScript file (.js)"]),
} as const;

/** Options for the settings that are changed most often. `--set` changes any other. */
export function settingsOptions(command: Command, { seed = "seed of all random numbers" } = {}): Command {
  return command
    .option("--model <model>", HELP.model)
    .option("--offline", HELP.offline)
    .option("--reward <name>", HELP.reward)
    .option("--prompts <list>", HELP.prompts)
    .option("--template <text>", HELP.template)
    .option("--negative-prompt <text>", "what the images should not show")
    .option("--seed <n>", seed)
    .option("--device <name>", HELP.device)
    .option("--precision <name>", HELP.precision)
    .option("--threads <n>", HELP.threads)
    .option("--memory <size>", "memory limit, such as 4GB (default: half of the free memory)")
    .option("--set <path=value>", HELP.set, collectSet);
}

/** Annealed guidance, for commands that generate images with a fine-tuned model. */
export function annealOption(): Option {
  return new Option(
    "--anneal <power>",
    "move from the base model at the first denoising step to the fine-tuned model at the last; " +
      "0 uses only the fine-tuned model, 1 moves linearly",
  ).argParser(number({ min: 0, max: 100 }));
}

/** Parser of a repeatable option. */
export function collect(value: string, before: readonly string[] = []): string[] {
  return [...before, value];
}

/** Parser of a repeatable `--adapter PATH:0.7`. */
export function collectAdapter(value: string, before: readonly AdapterChoice[] = []): AdapterChoice[] {
  return [...before, adapterChoice(value)];
}

/** Parser of `--set`. */
export function collectSet(argument: string, before: readonly Override[] = []): Override[] {
  return [...before, parseSet(argument)];
}

/**
 * The setting of each option. Keys are commander's names of the options. Values are validated with the settings, so an
 * invalid one gets the same message on the command line and in a recipe.
 */
const settingOfOption = {
  model: "model",
  reward: "reward.name",
  prompts: "prompts.train",
  evalPrompts: "prompts.eval",
  template: "prompts.template",
  negativePrompt: "prompts.negative",
  steps: "train.steps",
  out: "out",
  seed: "seed",
  device: "device",
  precision: "precision",
  threads: "threads",
  memory: "memory",
  adapter: "lora.start",
} as const;

const numeric: readonly string[] = ["steps", "seed", "threads"];

/** `instead`: options that stand for another setting in this command. */
export function overridesOf(
  options: SettingsOptions,
  instead: Partial<Record<keyof typeof settingOfOption, string>> = {},
): Override[] {
  const short = Object.entries({ ...settingOfOption, ...instead }).flatMap(([option, path]): Override[] => {
    const text = options[option as keyof typeof settingOfOption];
    if (text === undefined) return [];
    // A file replaces the whole reward. A name keeps the recipe's other settings of that reward.
    const target = option === "reward" && isRewardFile(text) ? "reward" : path;
    const value = numeric.includes(option) && text.trim() !== "" && !Number.isNaN(Number(text)) ? Number(text) : text;
    const flag = `--${option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    return [{ path: target.split("."), value, origin: `${flag} ${text}` }];
  });
  const offline: Override[] = options.offline
    ? [{ path: ["loading", "offline"], value: true, origin: "--offline" }]
    : [];
  const track = (options.track ?? []).map(
    (name): Override => ({ path: ["trackers"], value: name, origin: `--track ${name}`, adds: true }),
  );
  return [...short, ...offline, ...track, ...(options.set ?? [])];
}

/** @throws InputError `usage` if `--anneal` is given without an adapter */
export function requireTuned({ anneal, adapter }: { readonly anneal?: number; readonly adapter?: readonly unknown[] }) {
  if (anneal === undefined || adapter !== undefined) return;
  throw new InputError(
    "usage",
    `--anneal ${anneal}: there is no fine-tuned model to move to. Add --adapter with a run, a checkpoint or a LoRA file.`,
    { option: "--anneal", found: anneal, missing: "--adapter" },
  );
}

/** Parser of a numeric option that does not stand for a setting. */
export function number({ min, max = Infinity, whole = false }: { min: number; max?: number; whole?: boolean }) {
  return (text: string): number => {
    const value = text.trim() === "" ? Number.NaN : Number(text);
    if (Number.isFinite(value) && value >= min && value <= max && (!whole || Number.isInteger(value))) return value;
    const range = max === Infinity ? `of at least ${min}` : `from ${min} to ${max}`;
    throw new InvalidArgumentError(`Give a ${whole ? "whole " : ""}number ${range}.`);
  };
}
