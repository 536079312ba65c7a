/** Options that several commands share, and how they become settings. */
import { type Command, InvalidArgumentError, Option } from "commander";
import { type Override, parseSet } from "../config/index.js";
import { InputError } from "../errors/index.js";
import { isRewardFile, rewardNames } from "../rewards/index.js";

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
    .option("--json", "print the result as JSON on stdout (progress stays on stderr)")
    .option("--verbose", "show where an unexpected failure happened");
}

/** What most often differs from the recipe; `--set` reaches everything else. */
export function settingsOptions(command: Command): Command {
  return command
    .option("--model <model>", "a folder, a single file, or an id of the Hugging Face hub such as org/name@revision")
    .option("--offline", "take models of the hub from its cache alone")
    .option("--reward <name>", `${list([...rewardNames, "an ONNX file"])}, or the file of one of your own (.js)`)
    .option("--prompts <list>", PROMPTS)
    .option("--template <text>", 'the sentence around each prompt, such as "a photo of a {}"')
    .option("--negative-prompt <text>", "what pictures should stay away from")
    .option("--seed <n>", "the seed of everything random")
    .option("--device <name>", "cpu, cuda or webgpu")
    .option("--precision <name>", PRECISION)
    .option("--threads <n>", "processor threads (default: one per core)")
    .option("--memory <size>", "memory to stay within, such as 4GB (default: half of what is free)")
    .option("--set <path=value>", "any setting, such as lora.rank=8; may be repeated", collectSet);
}

/** Annealed guidance, for commands that draw with what was tuned. */
export function annealOption(): Option {
  return new Option(
    "--anneal <power>",
    "let the base model lead at the noise and the tuned one at the picture; 0 is the tuned one alone, 1 a straight line",
  ).argParser(number({ min: 0, max: 100 }));
}

export const PRECISION = "what the U-Net computes in: auto, float32 or float16 (auto: float16 on a GPU)";

export const PROMPTS = "a text file with a prompt a line (.txt), or a list's name such as animals";

/** "a, b or c" */
export function list(names: readonly string[]): string {
  return `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;
}

export function collectSet(argument: string, before: readonly Override[] = []): Override[] {
  return [...before, parseSet(argument)];
}

/** Each option's setting, by commander's name for the option. The settings' own rules judge the values, so that a message reads alike wherever it comes from. */
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

/** `instead`: options that stand for another setting in one command. */
export function overridesOf(
  options: SettingsOptions,
  instead: Partial<Record<keyof typeof settingOfOption, string>> = {},
): Override[] {
  const short = Object.entries({ ...settingOfOption, ...instead }).flatMap(([option, path]): Override[] => {
    const text = options[option as keyof typeof settingOfOption];
    if (text === undefined) return [];
    // A file is a reward by itself; a name leaves the recipe's settings of that reward as they are.
    const target = option === "reward" && isRewardFile(text) ? "reward" : path;
    const value = numeric.includes(option) && text.trim() !== "" && !Number.isNaN(Number(text)) ? Number(text) : text;
    return [
      {
        path: target.split("."),
        value,
        origin: `--${option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)} ${text}`,
      },
    ];
  });
  const offline: Override[] = options.offline
    ? [{ path: ["loading", "offline"], value: true, origin: "--offline" }]
    : [];
  const track = (options.track ?? []).map(
    (name): Override => ({ path: ["trackers"], value: name, origin: `--track ${name}`, adds: true }),
  );
  return [...short, ...offline, ...track, ...(options.set ?? [])];
}

/** There is nothing to anneal to without something that was tuned. */
export function requireTuned({ anneal, adapter }: { readonly anneal?: number; readonly adapter?: string }): void {
  if (anneal === undefined || adapter !== undefined) return;
  throw new InputError(
    "usage",
    `--anneal ${anneal}: goes from the base model to a tuned one, and none is given; add --adapter with a run, a checkpoint or a LoRA file`,
  );
}

/** A parser for options that are no settings. */
export function number({ min, max = Infinity, whole = false }: { min: number; max?: number; whole?: boolean }) {
  return (text: string): number => {
    const value = text.trim() === "" ? Number.NaN : Number(text);
    if (Number.isFinite(value) && value >= min && value <= max && (!whole || Number.isInteger(value))) return value;
    const range = max === Infinity ? `of at least ${min}` : `from ${min} to ${max}`;
    throw new InvalidArgumentError(`Give a ${whole ? "whole " : ""}number ${range}.`);
  };
}
