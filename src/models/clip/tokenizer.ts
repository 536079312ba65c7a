import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import { z } from "zod";
import { InputError, quote } from "../../errors/index.js";
import { parseConfig } from "../../io/config-schema.js";
import { exists, readText } from "../../io/files.js";
import { readJson } from "../../io/json.js";
import { readConfig } from "../../weights/folder.js";
import { addedTokens, addedTokensSchema, MAX_ID, withAllVectors } from "./added-tokens.js";

/**
 * CLIP's tokenizer (Radford et al. 2021, section 2.4). It lower-cases the text, splits it into words, punctuation and
 * single digits, and encodes the bytes of each by byte-pair encoding. `</w>` marks the end of a word.
 */
export interface ClipTokenizer {
  /** The number of ids of every encoded text; 77 in Stable Diffusion. */
  readonly maxLength: number;
  /** One more than the highest id. */
  readonly vocabularySize: number;
  readonly startId: number;
  readonly endId: number;
  readonly padId: number;
  encode(text: string): EncodedText;
  decode(ids: readonly number[]): string;
}

export interface EncodedText {
  /** The start token, the text's tokens, the end token and padding: always `maxLength` ids. */
  readonly ids: number[];
  /** The end of the text that did not fit; undefined if all of it did. */
  readonly truncated: string | undefined;
}

const START = "<|startoftext|>";
const END = "<|endoftext|>";
const END_OF_WORD = "</w>";
const CONTEXT_LENGTH = 77;
/** Bounds that keep a wrong file from filling the memory. CLIP's vocabulary has about 1 MiB. */
const MAX_BYTES = 32 * 2 ** 20;

const specialToken = z
  .union([z.string(), z.looseObject({ content: z.string() })])
  .transform((token) => (typeof token === "string" ? token : token.content));
const specialTokens = z.looseObject({
  bos_token: specialToken.nullish(),
  eos_token: specialToken.nullish(),
  unk_token: specialToken.nullish(),
  pad_token: specialToken.nullish(),
});
const tokenizerConfig = specialTokens.extend({
  tokenizer_class: z.enum(["CLIPTokenizer", "CLIPTokenizerFast"]).optional(),
  model_max_length: z.number().min(2).optional(),
  ...addedTokensSchema,
});

/**
 * Opens the tokenizer in a folder with tokenizer_config.json and either vocab.json and merges.txt or tokenizer.json.
 * Tokens that were added to it (`added-tokens.ts`) are read too.
 * @param options.contextLength the number of positions of the text model; texts are truncated to it
 * @param options.config replaces the folder's tokenizer_config.json
 * @throws InputError if a file is missing, damaged, or of another kind of tokenizer
 */
export async function openClipTokenizer(
  folder: string,
  { contextLength = CONTEXT_LENGTH, config: given }: { contextLength?: number; config?: unknown } = {},
): Promise<ClipTokenizer> {
  const file = "tokenizer_config.json";
  const json = given === undefined ? await readConfig(folder, z.unknown(), file) : given;
  const config = parseConfig(tokenizerConfig, json, join(folder, file));
  const mapPath = join(folder, "special_tokens_map.json");
  const map = (await exists(mapPath)) ? await readJson(mapPath, specialTokens) : {};
  const { vocab, merges, path } = await readBytePairs(folder);
  const allAdded = await addedTokens(folder, config, vocab);

  const idOf = (role: "bos_token" | "eos_token" | "unk_token" | "pad_token", otherwise: string) => {
    const token = config[role] ?? map[role] ?? otherwise;
    const id = Object.hasOwn(vocab, token) ? vocab[token] : allAdded.find(({ content }) => content === token)?.id;
    if (id === undefined)
      throw new InputError(
        "model-mismatch",
        `${path}: has no token ${quote(token)}, the tokenizer's ${role}. Use the tokenizer files of one model.`,
        { path, token, role },
      );
    return { token, id };
  };
  const start = idOf("bos_token", START);
  const end = idOf("eos_token", END);
  const unknown = idOf("unk_token", END);
  const pad = idOf("pad_token", END);
  const specials = new Map([start, end, unknown, pad].map(({ token, id }) => [token, id]));
  const added = allAdded.filter(({ content }) => !specials.has(content));
  const allVectors = withAllVectors(added);

  const tokenizer = new Tokenizer(
    {
      added_tokens: [
        ...[...specials].map(([content, id]) => ({ content, id, special: true, normalized: false })),
        ...added,
      ],
      normalizer: {
        type: "Sequence",
        normalizers: [
          { type: "NFC" },
          { type: "Replace", pattern: { Regex: "\\s+" }, content: " " },
          // JavaScript lower-cases a sigma at the end of a word to ς. CLIP's tokenizer always maps it to σ.
          { type: "Replace", pattern: { String: "Σ" }, content: "σ" },
          { type: "Lowercase" },
        ],
      },
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [
          {
            type: "Split",
            pattern: { Regex: "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+" },
            behavior: "Removed",
            invert: true,
          },
          { type: "ByteLevel", add_prefix_space: false, use_regex: false },
        ],
      },
      model: { type: "BPE", vocab, merges, unk_token: unknown.token, end_of_word_suffix: END_OF_WORD },
      post_processor: null,
      decoder: { type: "ByteLevel" },
    },
    { clean_up_tokenization_spaces: false },
  );

  // transformers writes 1e30 if no length is set.
  const maxLength = Math.min(Math.floor(config.model_max_length ?? contextLength), contextLength);
  const decode = (ids: readonly number[]) => (ids.length === 0 ? "" : tokenizer.decode([...ids]).trim());
  return {
    maxLength,
    vocabularySize:
      1 + [...Object.values(vocab), ...allAdded.map(({ id }) => id)].reduce((highest, id) => Math.max(highest, id), 0),
    startId: start.id,
    endId: end.id,
    padId: pad.id,
    decode,
    encode(text) {
      const content = tokenizer.encode(allVectors(text, (written) => tokenizer.encode(written).ids)).ids;
      const kept = content.slice(0, maxLength - 2);
      const ids = [start.id, ...kept, end.id];
      while (ids.length < maxLength) ids.push(pad.id);
      return { ids, truncated: content.length > kept.length ? decode(content.slice(kept.length)) : undefined };
    },
  };
}

interface BytePairs {
  /** Token → id. */
  readonly vocab: Readonly<Record<string, number>>;
  /** Pairs of tokens to merge, in order of priority. */
  readonly merges: readonly (readonly [string, string])[];
  /** The file of the vocabulary. Used in messages. */
  readonly path: string;
}

const tokenizerJson = z.looseObject({
  model: z.looseObject({
    type: z.literal("BPE"),
    end_of_word_suffix: z.literal(END_OF_WORD),
    vocab: z.unknown(),
    merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])),
  }),
});

async function readBytePairs(folder: string): Promise<BytePairs> {
  const vocabPath = join(folder, "vocab.json");
  const mergesPath = join(folder, "merges.txt");
  const jointPath = join(folder, "tokenizer.json");
  if ((await exists(vocabPath)) && (await exists(mergesPath))) {
    const vocab = checkVocabulary(await readJson(vocabPath, z.unknown(), MAX_BYTES), vocabPath);
    const lines = (await readText(mergesPath, MAX_BYTES)).split(/\r?\n/);
    const pairs = lines.map((line, i) => (i === 0 && line.startsWith("#version") ? "" : line));
    return { vocab, merges: checkMerges(pairs, vocab, mergesPath), path: vocabPath };
  }
  if (await exists(jointPath)) {
    const { model } = await readJson(jointPath, tokenizerJson, MAX_BYTES);
    const vocab = checkVocabulary(model.vocab, jointPath);
    const pairs = model.merges.map((merge) => (typeof merge === "string" ? merge : merge.join(" ")));
    return { vocab, merges: checkMerges(pairs, vocab, jointPath), path: jointPath };
  }
  throw new InputError(
    "model-incomplete",
    `${folder}: is not a CLIP tokenizer. The folder must have vocab.json and merges.txt, or tokenizer.json.`,
    { path: folder, missing: ["vocab.json", "merges.txt", "tokenizer.json"] },
  );
}

function checkVocabulary(vocab: unknown, path: string): Record<string, number> {
  if (typeof vocab !== "object" || vocab === null || Array.isArray(vocab)) {
    throw new InputError(
      "file-malformed",
      `${path}: the vocabulary is ${quote(vocab)}; it must be an object of tokens and their ids.`,
      { path, found: quote(vocab) },
    );
  }
  const tokens = new Map<number, string>();
  for (const [token, id] of Object.entries(vocab)) {
    const where = `${path}: token ${quote(token)}`;
    if (!Number.isSafeInteger(id) || id < 0 || id > MAX_ID) {
      throw new InputError(
        "file-malformed",
        `${where}: the id is ${quote(id)}; it must be a whole number from 0 to ${MAX_ID}.`,
        { path, token, found: quote(id), limit: MAX_ID },
      );
    }
    const other = tokens.get(id);
    if (other !== undefined)
      throw new InputError("file-malformed", `${where}: has the same id ${id} as ${quote(other)}.`, {
        path,
        token,
        other,
        id,
      });
    tokens.set(id, token);
  }
  return vocab as Record<string, number>;
}

/** Parses lines `left right`. The tokens left, right and left + right must be in the vocabulary. */
function checkMerges(lines: readonly string[], vocab: Readonly<Record<string, number>>, path: string) {
  const merges: [string, string][] = [];
  for (const [i, line] of lines.entries()) {
    if (line === "") continue;
    const where = `${path}: merge ${i + 1}`;
    const [left, right, ...more] = line.split(" ");
    if (!left || !right || more.length > 0) {
      throw new InputError(
        "file-malformed",
        `${where} is ${quote(line)}; it must be two tokens with a space between them.`,
        { path, merge: i + 1, found: quote(line) },
      );
    }
    const missing = [left, right, left + right].find((token) => !Object.hasOwn(vocab, token));
    if (missing !== undefined) {
      throw new InputError(
        "model-mismatch",
        `${where}: the token ${quote(missing)} is not in the vocabulary. Use the files of one tokenizer.`,
        { path, merge: i + 1, token: missing },
      );
    }
    merges.push([left, right]);
  }
  return merges;
}
