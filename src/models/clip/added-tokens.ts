/**
 * The tokens that were added to a tokenizer after it was trained, such as the placeholder of a textual inversion (Gal et
 * al. 2022). Three files can list them: tokenizer.json, tokenizer_config.json (transformers since 4.34) and
 * added_tokens.json (before).
 */
import { join } from "node:path";
import { z } from "zod";
import { InputError, quote } from "../../errors/index.js";
import { exists } from "../../io/files.js";
import { readJson } from "../../io/json.js";

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
  /** It is found in the normalized text, so in upper and lower case. */
  readonly normalized: boolean;
  /** It takes the spaces before it, or after it. */
  readonly lstrip: boolean;
  readonly rstrip: boolean;
}

/** Largest id of a token. It bounds what a damaged file can cost. */
export const MAX_ID = 2 ** 20;
const MAX_BYTES = 2 ** 22;

const id = z.int().min(0).max(MAX_ID);
const flags = z.looseObject({
  content: z.string().min(1),
  special: z.boolean().default(false),
  normalized: z.boolean().optional(),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
  single_word: z.literal(false).default(false),
});
const inConfig = z.looseObject({ added_tokens_decoder: z.record(z.string().regex(/^\d{1,7}$/), flags).nullish() });
const inTokenizerJson = z.looseObject({ added_tokens: z.array(flags.extend({ id })).default([]) });
const inAddedTokens = z.record(z.string().min(1), id);

/** A part of tokenizer_config.json. */
export const addedTokensSchema = inConfig.shape;

/**
 * The added tokens of a tokenizer's folder.
 *
 * @param config the checked tokenizer_config.json
 * @param vocab the vocabulary, whose ids no added token may take for another text
 * @throws InputError `file-malformed` if two tokens have one id, or one token two
 */
export async function addedTokens(
  folder: string,
  config: z.output<typeof inConfig>,
  vocab: Readonly<Record<string, number>>,
): Promise<AddedToken[]> {
  const path = (name: string) => join(folder, name);
  const found: (readonly [file: string, token: AddedToken])[] = [];
  const add = (file: string, id: number, token: z.output<typeof flags>) => {
    const { content, special, normalized = !special, lstrip, rstrip } = token;
    found.push([file, { id, content, special, normalized, lstrip, rstrip }]);
  };
  if (await exists(path("tokenizer.json"))) {
    const file = path("tokenizer.json");
    for (const token of (await readJson(file, inTokenizerJson, 2 ** 25)).added_tokens) add(file, token.id, token);
  }
  for (const [key, token] of Object.entries(config.added_tokens_decoder ?? {})) {
    add(path("tokenizer_config.json"), Number(key), token);
  }
  if (await exists(path("added_tokens.json"))) {
    const file = path("added_tokens.json");
    for (const [content, id] of Object.entries(await readJson(file, inAddedTokens, MAX_BYTES))) {
      add(file, id, flags.parse({ content }));
    }
  }
  const byContent = new Map<string, AddedToken>();
  const byId = new Map(Object.entries(vocab).map(([content, id]) => [id, content]));
  for (const [file, token] of found) {
    const before =
      byContent.get(token.content)?.id ?? (Object.hasOwn(vocab, token.content) ? vocab[token.content] : undefined);
    const other = byId.get(token.id);
    if ((before !== undefined && before !== token.id) || (other !== undefined && other !== token.content)) {
      const clash =
        before !== undefined && before !== token.id ? `also has the id ${before}` : `has the id of ${quote(other)}`;
      throw new InputError(
        "file-malformed",
        `${file}: the added token ${quote(token.content)} (id ${token.id}) ${clash}. Use the tokenizer files of one model.`,
        { path: file, token: token.content, id: token.id, other: other ?? before },
      );
    }
    // The first file that lists a token also has its flags.
    if (!byContent.has(token.content)) byContent.set(token.content, token);
    byId.set(token.id, token.content);
  }
  return [...byContent.values()];
}

/**
 * A function that writes the tokens of all vectors into a text. A textual inversion of several vectors is stored as
 * `<name>`, `<name>_1`, `<name>_2`, …, and diffusers replaces `<name>` in a prompt by all of them.
 */
export function withAllVectors(tokens: readonly AddedToken[]) {
  const contents = new Set(tokens.map(({ content }) => content));
  const several = tokens.flatMap(({ id, content }) => {
    const all = [content];
    while (contents.has(`${content}_${all.length}`)) all.push(`${content}_${all.length}`);
    return all.length > 1 ? [{ id, content, all: all.join(" ") }] : [];
  });
  return (text: string, encode: (text: string) => readonly number[]): string => {
    if (several.length === 0) return text;
    const ids = new Set(encode(text));
    return several.reduce(
      (written, { id, content, all }) => (ids.has(id) ? written.replaceAll(content, () => all) : written),
      text,
    );
  };
}
