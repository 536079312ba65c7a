/** Finds CLIP's tokenizer, which single files do not contain. */
import { realpath } from "node:fs/promises";
import { dirname, join } from "node:path";
import { InputError } from "../../errors/index.js";
import { exists } from "../../io/files.js";

/** The repository on the hub that has CLIP's tokenizer. */
export const CLIP_TOKENIZER = "openai/clip-vit-large-patch14";

/** The tokenizer_config.json for CLIP's vocabulary, which all these models share. */
export const CLIP_TOKENIZER_CONFIG = {
  tokenizer_class: "CLIPTokenizer",
  model_max_length: 77,
  bos_token: "<|startoftext|>",
  eos_token: "<|endoftext|>",
  unk_token: "<|endoftext|>",
};

export async function tokenizerFolder(
  path: string,
  { tokenizer }: { readonly tokenizer?: string | undefined },
): Promise<string> {
  const found = tokenizer ?? (await tokenizerBeside(path));
  if (found !== undefined) return found;
  throw new InputError(
    "model-incomplete",
    `${path}: a single file has no tokenizer. Put CLIP's vocab.json and merges.txt beside it, or set loading.tokenizer to ` +
      "their folder.",
    { path, missing: "tokenizer", setting: "loading.tokenizer" },
  );
}

/** The folder with a vocabulary beside a single file, or beside the file that it links to. */
export async function tokenizerBeside(path: string): Promise<string | undefined> {
  return (await tokenizerIn(dirname(path))) ?? (await tokenizerIn(dirname(await realpath(path).catch(() => path))));
}

/** `folder`/tokenizer or `folder`, if a vocabulary is in it. */
export async function tokenizerIn(folder: string): Promise<string | undefined> {
  for (const candidate of [join(folder, "tokenizer"), folder]) {
    const has = (name: string) => exists(join(candidate, name));
    if (((await has("vocab.json")) && (await has("merges.txt"))) || (await has("tokenizer.json"))) return candidate;
  }
  return undefined;
}
