import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type ClipTokenizer, openClipTokenizer } from "../../src/models/clip/tokenizer.js";
import { learnMerges, writeTokenizer } from "./bpe.js";
import { CAPTION_WORDS } from "./captions.js";

const MAX_LENGTH = 32;
const FILES = ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"];
const embedded = new URL("../../models/emoji-64/tokenizer/", import.meta.url);

let folder: string;
let vocab: Record<string, number>;
let tokenizer: ClipTokenizer;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "alignprop-bpe-"));
  await writeTokenizer(folder, CAPTION_WORDS, MAX_LENGTH);
  vocab = JSON.parse(await readFile(join(folder, "vocab.json"), "utf8"));
  tokenizer = await openClipTokenizer(folder);
});
afterAll(() => rm(folder, { recursive: true }));

describe("learning merges", () => {
  test("takes the most frequent pair first, ties in alphabetical order, until every word is one symbol", () => {
    // cat</w>: c a t</w>; cats: c a t s</w>; at: a t</w>. Pairs: c+a 2, a+t</w> 2, a+t 1, t+s</w> 1.
    expect(learnMerges(["cat", "cats", "at"])).toEqual([
      ["a", "t</w>"], // 2, before "c a" in the alphabet
      ["a", "t"], // all remaining pairs occur once
      ["at", "s</w>"],
      ["c", "at</w>"],
      ["c", "ats</w>"],
    ]);
  });

  test("gives the same merges for a corpus that repeats its words", () => {
    expect(learnMerges(CAPTION_WORDS)).toEqual(learnMerges([...CAPTION_WORDS, ...CAPTION_WORDS]));
  });
});

describe("the embedded model's tokenizer", () => {
  test("is small: all bytes twice, the merges and two special tokens, numbered without gaps", () => {
    const merges = learnMerges(CAPTION_WORDS).length;
    const ids = Object.values(vocab).sort((a, b) => a - b);
    expect(ids).toEqual(Array.from({ length: 512 + merges + 2 }, (_, i) => i));
    expect(ids.length).toBeLessThan(900);
    expect([vocab["<|startoftext|>"], vocab["<|endoftext|>"]]).toEqual([ids.length - 2, ids.length - 1]);
  });

  test.each(CAPTION_WORDS)("has one token for %s", (word) => {
    const { ids } = tokenizer.encode(word);
    const id = vocab[`${word}</w>`];
    expect(ids.slice(0, 3)).toEqual([vocab["<|startoftext|>"], id, vocab["<|endoftext|>"]]);
  });

  test.each([
    ["three shaded mice on a gray background", "three shaded mice on a gray background"],
    ["A FOX  and its cubs", "a fox and its cubs"],
    ["zwölf füchse 狐 🦊", "zwölf füchse 狐 🦊"],
  ])("decodes the tokens of %j", (prompt, expected) => {
    const words = tokenizer.encode(prompt).ids.filter((id) => id !== tokenizer.startId && id !== tokenizer.endId);
    expect(tokenizer.decode(words).trimEnd()).toBe(expected);
  });

  test("is equal to the checked-in files", async () => {
    for (const file of FILES) {
      expect(await readFile(new URL(file, embedded), "utf8"), file).toBe(await readFile(join(folder, file), "utf8"));
    }
  });
});
