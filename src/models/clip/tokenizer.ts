import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import { z } from "zod";
import { InputError } from "../../errors/index.js";
import { parseConfig } from "../../io/config-schema.js";
import { exists, readText } from "../../io/files.js";
import { readJson } from "../../io/json.js";
import { readConfig } from "../../weights/folder.js";

/**
 * CLIP's tokenizer (Radford et al. 2021, section 2.4): lower-cased text, split into words, signs and single digits,
 * each spelled in bytes and joined by byte-pair encoding, where `</w>` marks the end of a word.
 */
export interface ClipTokenizer {
  /** The number of ids in every encoded text: 77 in Stable Diffusion. */
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
  /** Start, the text's tokens, end, then padding: always `maxLength` of them. */
  readonly ids: number[];
  /** The end of the text that did not fit, for a warning. */
  readonly truncated: string | undefined;
}

const START = "<|startoftext|>";
const END = "<|endoftext|>";
const END_OF_WORD = "</w>";
const CONTEXT_LENGTH = 77;
/** CLIP's own vocabulary takes about 1 MiB; these bounds only keep a wrong file from filling the memory. */
const MOST_BYTES = 32 * 2 ** 20;
const HIGHEST_ID = 2 ** 20;

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
});

/**
 * From a tokenizer folder: tokenizer_config.json beside vocab.json and merges.txt, or beside tokenizer.json. Texts never
 * get more ids than `contextLength`, the number of positions that the text model knows. `config` is what stands for the
 * folder's tokenizer_config.json where it was read already, or is the caller's own.
 */
export async function openClipTokenizer(
  folder: string,
  { contextLength = CONTEXT_LENGTH, config: given }: { contextLength?: number; config?: unknown } = {},
): Promise<ClipTokenizer> {
  const file = "tokenizer_config.json";
  const config =
    given === undefined
      ? await readConfig(folder, tokenizerConfig, file)
      : parseConfig(tokenizerConfig, given, join(folder, file));
  const mapPath = join(folder, "special_tokens_map.json");
  const map = (await exists(mapPath)) ? await readJson(mapPath, specialTokens) : {};
  const { vocab, merges, path } = await readBytePairs(folder);

  const idOf = (role: "bos_token" | "eos_token" | "unk_token" | "pad_token", otherwise: string) => {
    const token = config[role] ?? map[role] ?? otherwise;
    const id = Object.hasOwn(vocab, token) ? vocab[token] : undefined;
    if (id === undefined)
      throw new InputError(
        "config-invalid",
        `${path}: has no ${JSON.stringify(token)}, the ${role} of this tokenizer.`,
      );
    return { token, id };
  };
  const start = idOf("bos_token", START);
  const end = idOf("eos_token", END);
  const unknown = idOf("unk_token", END);
  const pad = idOf("pad_token", END);
  const specials = new Map([start, end, unknown, pad].map(({ token, id }) => [token, id]));

  const tokenizer = new Tokenizer(
    {
      added_tokens: [...specials].map(([content, id]) => ({ content, id, special: true, normalized: false })),
      normalizer: {
        type: "Sequence",
        normalizers: [
          { type: "NFC" },
          { type: "Replace", pattern: { Regex: "\\s+" }, content: " " },
          // JavaScript lowers a sigma at the end of a word to ς; CLIP's tokenizer lowers letter by letter.
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

  // Where no length is set, transformers writes 1e30.
  const maxLength = Math.min(Math.floor(config.model_max_length ?? contextLength), contextLength);
  const decode = (ids: readonly number[]) => (ids.length === 0 ? "" : tokenizer.decode([...ids]).trim());
  return {
    maxLength,
    vocabularySize: 1 + Object.values(vocab).reduce((highest, id) => Math.max(highest, id), 0),
    startId: start.id,
    endId: end.id,
    padId: pad.id,
    decode,
    encode(text) {
      const content = tokenizer.encode(text).ids;
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
  /** What to join, the most important pair first. */
  readonly merges: readonly (readonly [string, string])[];
  /** The vocabulary's file, for messages. */
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
    const vocab = checkVocabulary(await readJson(vocabPath, z.unknown(), MOST_BYTES), vocabPath);
    const lines = (await readText(mergesPath, MOST_BYTES)).split(/\r?\n/);
    const pairs = lines.map((line, i) => (i === 0 && line.startsWith("#version") ? "" : line));
    return { vocab, merges: checkMerges(pairs, vocab, mergesPath), path: vocabPath };
  }
  if (await exists(jointPath)) {
    const { model } = await readJson(jointPath, tokenizerJson, MOST_BYTES);
    const vocab = checkVocabulary(model.vocab, jointPath);
    const pairs = model.merges.map((merge) => (typeof merge === "string" ? merge : merge.join(" ")));
    return { vocab, merges: checkMerges(pairs, vocab, jointPath), path: jointPath };
  }
  throw new InputError(
    "config-invalid",
    `${folder}: is no CLIP tokenizer: it needs vocab.json and merges.txt, or tokenizer.json.`,
  );
}

function checkVocabulary(vocab: unknown, path: string): Record<string, number> {
  if (typeof vocab !== "object" || vocab === null || Array.isArray(vocab)) {
    throw new InputError("config-invalid", `${path}: the vocabulary is not an object of tokens and their ids.`);
  }
  const tokens = new Map<number, string>();
  for (const [token, id] of Object.entries(vocab)) {
    const where = `${path}: token ${JSON.stringify(token)}`;
    if (!Number.isSafeInteger(id) || id < 0 || id > HIGHEST_ID) {
      throw new InputError(
        "config-invalid",
        `${where}: ${JSON.stringify(id)} is not an id, a whole number from 0 to ${HIGHEST_ID}.`,
      );
    }
    const other = tokens.get(id);
    if (other !== undefined)
      throw new InputError("config-invalid", `${where}: has the id ${id}, and so has ${JSON.stringify(other)}.`);
    tokens.set(id, token);
  }
  return vocab as Record<string, number>;
}

/** Each line `left right`, where left, right and the token that they make are all in the vocabulary. */
function checkMerges(lines: readonly string[], vocab: Readonly<Record<string, number>>, path: string) {
  const merges: [string, string][] = [];
  for (const [i, line] of lines.entries()) {
    if (line === "") continue;
    const where = `${path}: merge ${i + 1}`;
    const [left, right, ...more] = line.split(" ");
    if (!left || !right || more.length > 0) {
      throw new InputError(
        "config-invalid",
        `${where}: ${JSON.stringify(line.slice(0, 100))} is not two tokens with a space between them.`,
      );
    }
    const missing = [left, right, left + right].find((token) => !Object.hasOwn(vocab, token));
    if (missing !== undefined) {
      throw new InputError(
        "config-invalid",
        `${where}: ${JSON.stringify(missing)} is not in the vocabulary; do both belong together?`,
      );
    }
    merges.push([left, right]);
  }
  return merges;
}
