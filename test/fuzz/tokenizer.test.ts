/** Mutated tokenizer folders: a tokenizer whose ids its model can take, or a refusal. */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, test } from "vitest";
import { openClipTokenizer } from "../../src/models/clip/tokenizer.js";
import type { Rng } from "../../src/tensor/rng.js";
import { fuzz, LIMIT, scratchFolder } from "./fuzz.js";
import { mutateBytes, mutateJson } from "./mutate.js";

// Small, so that 10,000 of them are soon opened; what it cannot spell is its unknown token.
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
};
const specials = { eos_token: { content: "<|endoftext|>" }, pad_token: "<|endoftext|>" };
const joint = {
  added_tokens: [{ id: 1, content: "<|endoftext|>", special: true }],
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

/** Leaves the folder as it was but for one file. */
type Mutation = readonly [name: string, content: string | Uint8Array];

async function check([name, content]: Mutation): Promise<void> {
  write(name, content);
  try {
    const tokenizer = await openClipTokenizer(folder);
    for (const prompt of ["a cat", "dogs & a cat's \u{1F408}\u0000 <|endoftext|> ".repeat(4)]) {
      const { ids } = tokenizer.encode(prompt);
      if (ids.length !== tokenizer.maxLength) throw new Error(`${ids.length} ids, not ${tokenizer.maxLength}`);
      const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= tokenizer.vocabularySize);
      if (wrong !== undefined) throw new Error(`id ${wrong} is not below ${tokenizer.vocabularySize}`);
      if (typeof tokenizer.decode(ids) !== "string") throw new Error("ids that decode to no text");
    }
  } finally {
    write("tokenizer_config.json", JSON.stringify(config));
    write("special_tokens_map.json", JSON.stringify(specials));
  }
}

const mutateJsonFile = (name: string, value: unknown, rng: Rng): Mutation => [name, mutateJson(value, rng)];

test("vocab.json, merges.txt and the settings beside them", LIMIT, async () => {
  write("tokenizer_config.json", JSON.stringify(config));
  write("special_tokens_map.json", JSON.stringify(specials));
  write("vocab.json", JSON.stringify(vocab));
  write("merges.txt", merges);
  const mutate = (rng: Rng): Mutation => {
    switch (rng.integer(0, 3)) {
      case 0:
        return mutateJsonFile("tokenizer_config.json", config, rng);
      case 1:
        return mutateJsonFile("special_tokens_map.json", specials, rng);
      case 2:
        return mutateJsonFile("vocab.json", vocab, rng);
      default:
        return [
          "merges.txt",
          mutateBytes(Buffer.from(merges), rng, [" ", "\n", "\r", "c a", "</w>", "\xff", "cat</w>"]),
        ];
    }
  };
  await fuzz(3_8, mutate, async (mutation) => {
    try {
      await check(mutation);
    } finally {
      write("vocab.json", JSON.stringify(vocab));
      write("merges.txt", merges);
    }
  });
});

test("tokenizer.json", LIMIT, async () => {
  rmSync(join(folder, "vocab.json"), { force: true });
  write("tokenizer_config.json", JSON.stringify(config));
  write("special_tokens_map.json", JSON.stringify(specials));
  await fuzz(3_9, (rng) => mutateJsonFile("tokenizer.json", joint, rng), check);
});
