/** The prompts of a run: a built-in list, a list in the recipe, or a text file with one prompt per line. */
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

/** The 6 animals that the paper evaluates on, which are not among the training prompts. */
export const HELD_OUT_ANIMALS: readonly string[] = "snail hippopotamus cheetah crocodile lobster octopus".split(" ");

const PROMPT_LISTS: Readonly<Record<string, readonly string[]>> = {
  animals: ANIMALS,
  "held-out-animals": HELD_OUT_ANIMALS,
};

export interface PromptOptions {
  /** The setting or option that the source comes from, for messages. */
  readonly setting?: string;
  /** Called with a message if a prompt file is absent. The list is then empty. Without it, an absent file is an error. */
  readonly absent?: ((message: string) => void) | undefined;
}

/**
 * The prompts that a setting gives. `source` is the name of a built-in list, the path of a `.txt` file, or the prompts
 * themselves.
 *
 * @throws InputError `prompts-invalid`, `file-not-found` or the other errors of `readText`
 */
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
  if (prompts.length === 0) {
    throw new InputError("prompts-invalid", `${setting}: the list is empty; give at least one prompt.`, {
      setting,
      found: 0,
    });
  }
  return prompts.map((prompt, index) => {
    const trimmed = prompt.trim();
    if (trimmed === "") {
      const number = index + 1;
      throw new InputError(
        "prompts-invalid",
        `${setting}: prompt ${number} of ${prompts.length} is empty; remove it.`,
        { setting, number, count: prompts.length },
      );
    }
    return trimmed;
  });
}

async function namedPrompts(source: string, setting: string): Promise<string[]> {
  if (Object.hasOwn(PROMPT_LISTS, source)) return [...(PROMPT_LISTS[source] as readonly string[])];
  if (source.endsWith(".txt")) return readPromptFile(source, setting);
  const names = Object.keys(PROMPT_LISTS);
  const suggestion = nearest(source, names);
  throw new InputError(
    "prompts-invalid",
    `${setting}: "${source}" is not a list of prompts${suggestion ? `; did you mean "${suggestion}"?` : "."} ` +
      `The built-in lists are ${names.join(" and ")}. The name of a file with one prompt per line ends in .txt.`,
    { setting, found: source, suggestion, known: names },
  );
}

/** The `config.yaml` of a run contains its prompts. Within these limits it can be read back (`recipe.ts`, `settings.ts`). */
const MAX_FILE_BYTES = 2 ** 22;
const MAX_PROMPTS = 100_000;
const MAX_PROMPT_LENGTH = 4096;

/** Files that recipes name but this package may not contain. AlignProp's repository has them under `assets/`. */
const HPS_FILES = ["hps_v2_all.txt", "hps_v2_all_eval.txt"];

/** Where an absent file of the HPSv2 benchmark can be found. */
function sourceOf(file: string): string | undefined {
  const name = basename(file);
  return HPS_FILES.includes(name) && !existsSync(file) ? `github.com/mihirp1998/AlignProp/assets/${name}` : undefined;
}

/** One prompt per line. Blank lines are skipped. */
async function readPromptFile(path: string, setting: string): Promise<string[]> {
  const file = locate(path);
  const text = await readText(file, MAX_FILE_BYTES).catch((error: unknown) => {
    if (!(error instanceof InputError)) throw error;
    const source = sourceOf(file);
    const hint = source
      ? " The prompts of the HPSv2 benchmark are not part of this package. AlignProp's code contains them as assets/" +
        `${basename(file)} (github.com/mihirp1998/AlignProp). Put that file into the working folder, or give other prompts ` +
        "with --prompts and --eval-prompts."
      : "";
    throw new InputError(error.code, `${setting}: ${error.message}${hint}`, { ...error.facts, setting, source });
  });
  const lines = text.split(/\r\n|\r|\n/).map((line) => line.trim());
  const tooLong = lines.findIndex((line) => line.length > MAX_PROMPT_LENGTH);
  if (tooLong >= 0) {
    const line = tooLong + 1;
    const found = lines[tooLong]?.length;
    throw new InputError(
      "prompts-invalid",
      `${setting}: ${file}:${line}: the prompt has ${found} characters, but a prompt has at most ${MAX_PROMPT_LENGTH}. Write one prompt per line.`,
      { setting, path: file, line, found, limit: MAX_PROMPT_LENGTH },
    );
  }
  const prompts = lines.filter((line) => line !== "");
  if (prompts.length === 0) {
    throw new InputError("prompts-invalid", `${setting}: ${file} contains no prompts; write one per line.`, {
      setting,
      path: file,
      found: 0,
    });
  }
  if (prompts.length > MAX_PROMPTS) {
    throw new InputError(
      "prompts-invalid",
      `${setting}: ${file} contains ${prompts.length} prompts; keep at most ${MAX_PROMPTS}.`,
      { setting, path: file, found: prompts.length, limit: MAX_PROMPTS },
    );
  }
  return prompts;
}

/** Replaces each `{}` of the template by the prompt. */
export function inTemplate(prompt: string, template: string): string {
  return template.replaceAll("{}", () => prompt);
}

/** The evaluation prompts in their template. */
export function evaluationPrompts({ prompts }: SettingsPart<"prompts">): string[] {
  return prompts.eval.map((prompt) => inTemplate(prompt, prompts.template));
}
