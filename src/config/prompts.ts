/** Where a run's prompts come from: a list by name, a list in the recipe, or a text file with one prompt a line. */

import { existsSync } from "node:fs";
import { basename } from "node:path";
import { InputError, nearest } from "../errors/index.js";
import { readText } from "../io/files.js";
import { locate } from "../io/package.js";
import type { SettingsPart } from "./settings.js";

/** The 45 animals that the paper fine-tunes on (DDPO's "simple animals", Black et al. 2023). */
export const ANIMALS: readonly string[] = (
  "cat dog horse monkey rabbit zebra spider bird sheep deer cow goat lion tiger bear raccoon fox wolf lizard beetle " +
  "ant butterfly fish shark whale dolphin squirrel mouse rat snake turtle frog chicken duck goose bee pig turkey fly " +
  "llama camel bat gorilla hedgehog kangaroo"
).split(" ");

/** The 6 that it evaluates on and never fine-tunes on. */
export const HELD_OUT_ANIMALS: readonly string[] = "snail hippopotamus cheetah crocodile lobster octopus".split(" ");

export const PROMPT_LISTS: Readonly<Record<string, readonly string[]>> = {
  animals: ANIMALS,
  "held-out-animals": HELD_OUT_ANIMALS,
};

export interface PromptOptions {
  /** The setting that the source came from, for messages. */
  readonly setting?: string;
  /** Told of a file that is not there, which then counts as no prompts; otherwise that is an error. */
  readonly absent?: ((message: string) => void) | undefined;
}

/** `source`: the name of a list, the path of a `.txt` file, or the prompts themselves. */
export async function resolvePrompts(
  source: string | readonly string[],
  { setting = "prompts", absent }: PromptOptions = {},
): Promise<string[]> {
  if (typeof source !== "string") return listedPrompts(source, setting);
  try {
    return await namedPrompts(source, setting);
  } catch (error) {
    if (!absent || !(error instanceof InputError) || !source.endsWith(".txt") || existsSync(locate(source)))
      throw error;
    absent(error.message);
    return [];
  }
}

function listedPrompts(prompts: readonly string[], setting: string): string[] {
  if (prompts.length === 0)
    throw new InputError("prompts-invalid", `${setting}: the list is empty; give at least one prompt.`);
  return prompts.map((prompt, index) => {
    const trimmed = prompt.trim();
    if (trimmed === "")
      throw new InputError(
        "prompts-invalid",
        `${setting}: prompt ${index + 1} of ${prompts.length} is empty; remove it.`,
      );
    return trimmed;
  });
}

async function namedPrompts(source: string, setting: string): Promise<string[]> {
  if (Object.hasOwn(PROMPT_LISTS, source)) return [...(PROMPT_LISTS[source] as readonly string[])];
  if (source.endsWith(".txt")) return readPromptFile(source, setting);
  const names = Object.keys(PROMPT_LISTS);
  const near = nearest(source, names);
  throw new InputError(
    "prompts-invalid",
    `${setting}: "${source}" is not a list of prompts${near ? `; did you mean "${near}"?` : "."} ` +
      `Known lists are ${names.join(" and ")}; a file of prompts, one a line, ends in .txt.`,
  );
}

/** A run's `config.yaml` holds its prompts; these bounds are what can be read back from there (`settings.ts`). */
const LARGEST_PROMPT_FILE = 2 ** 22;
const MOST_PROMPTS = 100_000;
const LONGEST_PROMPT = 4096;

/** Lists that recipes name and that are not ours to ship, by their files' names in the repository of AlignProp's code. */
const HPS_LISTS = ["hps_v2_all.txt", "hps_v2_all_eval.txt"];

function hintFor(file: string): string {
  if (!HPS_LISTS.includes(basename(file)) || existsSync(file)) return "";
  return (
    " The prompts of the HPSv2 benchmark are not part of this package. AlignProp's code has them as assets/" +
    `${basename(file)} (github.com/mihirp1998/AlignProp): put the file into the working folder, or name prompts of ` +
    "your own with --prompts and --eval-prompts"
  );
}

/** One prompt a line; blank lines are skipped. */
async function readPromptFile(path: string, setting: string): Promise<string[]> {
  const file = locate(path);
  let text: string;
  try {
    text = await readText(file, LARGEST_PROMPT_FILE);
  } catch (error) {
    if (error instanceof InputError)
      throw new InputError("prompts-invalid", `${setting}: ${error.message}${hintFor(file)}`);
    throw error;
  }
  const lines = text.split(/\r\n|\r|\n/).map((line) => line.trim());
  const long = lines.findIndex((line) => line.length > LONGEST_PROMPT);
  if (long >= 0) {
    throw new InputError(
      "prompts-invalid",
      `${setting}: ${file}:${long + 1}: has ${lines[long]?.length} characters, and a prompt at most ${LONGEST_PROMPT}. Is it one prompt a line?`,
    );
  }
  const prompts = lines.filter((line) => line !== "");
  if (prompts.length === 0)
    throw new InputError("prompts-invalid", `${setting}: ${file} holds no prompts; write one a line.`);
  if (prompts.length > MOST_PROMPTS) {
    throw new InputError(
      "prompts-invalid",
      `${setting}: ${file} holds ${prompts.length} prompts; keep at most ${MOST_PROMPTS}.`,
    );
  }
  return prompts;
}

export function inTemplate(prompt: string, template: string): string {
  return template.replaceAll("{}", () => prompt);
}

export function evaluationPrompts({ prompts }: SettingsPart<"prompts">): string[] {
  return prompts.eval.map((prompt) => inTemplate(prompt, prompts.template));
}
