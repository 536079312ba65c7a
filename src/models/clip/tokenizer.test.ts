import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { InputError } from "../../errors/index.js";
import { openClipTokenizer } from "./tokenizer.js";

/** Written by parity/tokenizer_goldens.py with transformers' CLIPTokenizer. */
interface Golden {
  vocab: Record<string, number>;
  merges: string[];
  prompts: string[];
  configurations: {
    name: string;
    config: Record<string, unknown>;
    special_tokens_map: Record<string, unknown>;
    ids: number[][];
    lost: (string | null)[];
  }[];
}
const golden: Golden = JSON.parse(await readFile(new URL("./goldens/tokenizer.json", import.meta.url), "utf8"));

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "alignprop-tokenizer-"));
});
afterAll(() => rm(root, { recursive: true }));

async function folderOf(files: Record<string, unknown>): Promise<string> {
  const folder = await mkdtemp(join(root, "tokenizer-"));
  for (const [name, content] of Object.entries(files)) {
    await writeFile(join(folder, name), typeof content === "string" ? content : JSON.stringify(content));
  }
  return folder;
}

const MERGES = `#version: 0.2\n${golden.merges.join("\n")}\n`;
const whole = (over: Record<string, unknown> = {}) => ({
  "vocab.json": golden.vocab,
  "merges.txt": MERGES,
  "tokenizer_config.json": { model_max_length: 12 },
  ...over,
});

describe.each(golden.configurations)("agrees with transformers in the configuration of $name", (configuration) => {
  const open = async () =>
    openClipTokenizer(
      await folderOf(
        whole({
          "tokenizer_config.json": configuration.config,
          "special_tokens_map.json": configuration.special_tokens_map,
        }),
      ),
    );

  test("in the ids of every prompt", async () => {
    const tokenizer = await open();
    for (const [i, prompt] of golden.prompts.entries()) {
      expect(tokenizer.encode(prompt).ids, prompt).toEqual(configuration.ids[i]);
    }
  });

  test("in the text that does not fit", async () => {
    const tokenizer = await open();
    for (const [i, prompt] of golden.prompts.entries()) {
      expect(tokenizer.encode(prompt).truncated, prompt).toEqual(configuration.lost[i] ?? undefined);
    }
  });
});

describe("a tokenizer", () => {
  test("from tokenizer.json gives the ids that vocab.json and merges.txt give", async () => {
    const { "tokenizer_config.json": config } = whole();
    const expected = await openClipTokenizer(await folderOf(whole()));
    for (const merges of [golden.merges, golden.merges.map((merge) => merge.split(" "))]) {
      const model = { type: "BPE", end_of_word_suffix: "</w>", vocab: golden.vocab, merges };
      const joint = await openClipTokenizer(
        await folderOf({ "tokenizer.json": { model }, "tokenizer_config.json": config }),
      );
      for (const prompt of golden.prompts) expect(joint.encode(prompt)).toEqual(expected.encode(prompt));
    }
  });

  test("knows its special ids, its length and the size of its vocabulary", async () => {
    const tokenizer = await openClipTokenizer(await folderOf(whole()));
    expect(tokenizer).toMatchObject({
      maxLength: 12,
      vocabularySize: Object.keys(golden.vocab).length,
      startId: golden.vocab["<|startoftext|>"],
      endId: golden.vocab["<|endoftext|>"],
      padId: golden.vocab["<|endoftext|>"],
    });
  });

  test("decodes ids to readable text, and none to none", async () => {
    const tokenizer = await openClipTokenizer(await folderOf(whole()));
    expect(tokenizer.decode(tokenizer.encode("Two cats on grass").ids.slice(1, 5))).toBe("two cats on grass");
    expect(tokenizer.decode([])).toBe("");
  });

  test.each([{}, { model_max_length: 1e30 }])("without a length of its own has CLIP's 77: %j", async (config) => {
    const tokenizer = await openClipTokenizer(await folderOf(whole({ "tokenizer_config.json": config })));
    expect(tokenizer.encode("a cat").ids).toHaveLength(77);
  });
});

test("a text model of fewer positions shortens texts to them", async () => {
  const folder = await folderOf(whole({ "tokenizer_config.json": { model_max_length: 77 } }));
  const tokenizer = await openClipTokenizer(folder, { contextLength: 5 });
  const { ids, truncated } = tokenizer.encode("a photo of a cat");
  expect(ids).toEqual(tokenizer.encode("a photo of").ids);
  expect(ids).toHaveLength(5);
  expect(truncated).toBe("a cat");
});

describe("a folder that is refused", () => {
  async function refuse(files: Record<string, unknown>, message: RegExp): Promise<void> {
    const error = await openClipTokenizer(await folderOf(files)).catch((caught) => caught);
    expect(error).toBeInstanceOf(InputError);
    expect(error.message).toMatch(message);
  }
  const { "tokenizer_config.json": config } = whole();

  test("is missing", async () => {
    await expect(openClipTokenizer(join(root, "nowhere"))).rejects.toThrow(InputError);
  });

  test("has no configuration or no vocabulary", async () => {
    await refuse({ "vocab.json": golden.vocab, "merges.txt": MERGES }, /has no tokenizer_config\.json/);
    await refuse(
      { "tokenizer_config.json": config, "vocab.json": {} },
      /needs vocab\.json and merges\.txt, or tokenizer/,
    );
  });

  test("is another kind of tokenizer", async () => {
    await refuse(
      whole({ "tokenizer_config.json": { tokenizer_class: "T5Tokenizer" } }),
      /tokenizer_class is "T5Tokenizer"/,
    );
    const model = { type: "Unigram", vocab: [], merges: [] };
    await refuse({ "tokenizer_config.json": config, "tokenizer.json": { model } }, /model\.type is "Unigram"/);
  });

  test("has no room for a start and an end", () =>
    refuse(whole({ "tokenizer_config.json": { model_max_length: 1 } }), /model_max_length is 1/));

  test("lacks a special token in its vocabulary", () =>
    refuse(whole({ "tokenizer_config.json": { pad_token: { content: "[PAD]" } } }), /has no "\[PAD\]", the pad_token/));

  test("has a name for a special token that objects inherit", () =>
    refuse(whole({ "tokenizer_config.json": { pad_token: "constructor" } }), /has no "constructor"/));

  test.each([
    [[], /not an object of tokens/],
    ["{", /vocab\.json: is not valid JSON/],
    [{ a: 1.5 }, /token "a": 1\.5 is not an id/],
    [{ a: "1" }, /token "a": "1" is not an id/],
    [{ a: 4e9 }, /token "a": 4000000000 is not an id/],
    [{ a: 0, b: 0 }, /token "b": has the id 0, and so has "a"/],
  ])("has the vocabulary %j", (vocab, message) => refuse(whole({ "vocab.json": vocab }), message));

  test.each([
    ["a b c", /merge 1: "a b c" is not two tokens/],
    ["#version: 0.2\na", /merge 2: "a" is not two tokens/],
    ["a zebra", /merge 1: "zebra" is not in the vocabulary/],
    ["q q", /merge 1: "qq" is not in the vocabulary/],
  ])("has the merges %j", (merges, message) => refuse(whole({ "merges.txt": merges }), message));
});
