/** Mutated tokenizer folders give a tokenizer whose ids are in the vocabulary, or an InputError. */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, test } from "vitest";
import { openClipTokenizer } from "../../src/models/clip/tokenizer.js";
import type { Rng } from "../../src/tensor/rng.js";
import { fuzz, LIMIT, scratchFolder } from "./fuzz.js";
import { mutateBytes, mutateJson } from "./mutate.js";

// Small, so that 10,000 of them open quickly. Other characters become the unknown token.
const merges = "#version: 0.2\nc a\nca t</w>\nd o\ndo g</w>\n";
const tokens = [
  "<|startoftext|>",
  "<|endoftext|>",
  ..."acdgot'&",
  "t</w>",
  "g</w>",
  "s</w>",
  "ca",
  "cat</w>",
  "do",
  "dog</w>",
];
const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
const config = {
  tokenizer_class: "CLIPTokenizer",
  model_max_length: 16,
  bos_token: { content: "<|startoftext|>", lstrip: false },
  unk_token: "<|endoftext|>",
  added_tokens_decoder: { "17": { content: "<cat>", lstrip: true, normalized: false } },
};
const specials = { eos_token: { content: "<|endoftext|>" }, pad_token: "<|endoftext|>" };
const joint = {
  added_tokens: [
    { id: 1, content: "<|endoftext|>", special: true },
    { id: 17, content: "<cat>", special: false, normalized: true },
    { id: 18, content: "<cat>_1" },
  ],
  model: {
    type: "BPE",
    end_of_word_suffix: "</w>",
    vocab,
    merges: merges.split("\n").filter((line) => line && !line.startsWith("#")),
  },
};

const folder = scratchFolder();
afterAll(() => rmSync(folder, { recursive: true }));
const write = (name: string, content: string | Uint8Array) => writeFileSync(join(folder, name), content);

type Mutation = readonly [file: string, content: string | Uint8Array];

const valid: Readonly<Record<string, string>> = {
  "tokenizer_config.json": JSON.stringify(config),
  "special_tokens_map.json": JSON.stringify(specials),
  "vocab.json": JSON.stringify(vocab),
  "merges.txt": merges,
};
for (const [file, content] of Object.entries(valid)) write(file, content);

function mutate(rng: Rng): Mutation {
  switch (rng.integer(0, 4)) {
    case 0:
      return ["tokenizer_config.json", mutateJson(config, rng)];
    case 1:
      return ["special_tokens_map.json", mutateJson(specials, rng)];
    case 2:
      return ["vocab.json", mutateJson(vocab, rng)];
    case 3:
      return ["merges.txt", mutateBytes(Buffer.from(merges), rng, [" ", "\n", "\r", "c a", "</w>", "\xff", "cat</w>"])];
    default:
      return ["tokenizer.json", mutateJson(joint, rng)];
  }
}

/** Checks the valid folder with one file replaced. With tokenizer.json, it has no merges.txt. */
async function check([file, content]: Mutation): Promise<void> {
  write(file, content);
  if (file === "tokenizer.json") rmSync(join(folder, "merges.txt"));
  try {
    const tokenizer = await openClipTokenizer(folder);
    for (const prompt of ["a cat", "dogs & a cat's \u{1F408}\u0000 <|endoftext|> ".repeat(4)]) {
      const { ids } = tokenizer.encode(prompt);
      if (ids.length !== tokenizer.maxLength) throw new Error(`${ids.length} ids, not ${tokenizer.maxLength}`);
      const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= tokenizer.vocabularySize);
      if (wrong !== undefined) throw new Error(`id ${wrong} is not below ${tokenizer.vocabularySize}`);
      if (typeof tokenizer.decode(ids) !== "string") throw new Error("ids do not decode to a string");
    }
  } finally {
    if (file === "tokenizer.json") write("merges.txt", merges);
    else write(file, valid[file] as string);
  }
}

test("tokenizers in both layouts", LIMIT, async () => {
  await fuzz(3_6, mutate, check);
});
