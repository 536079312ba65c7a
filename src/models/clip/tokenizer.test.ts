import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { type ErrorCode, type ErrorFacts, InputError } from "../../errors/index.js";
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
  added_prompts: string[];
  added: { name: string; files: Record<string, Record<string, unknown>>; ids: number[][] }[];
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

  test("in the end of the text that does not fit", async () => {
    const tokenizer = await open();
    for (const [i, prompt] of golden.prompts.entries()) {
      expect(tokenizer.encode(prompt).truncated, prompt).toEqual(configuration.lost[i] ?? undefined);
    }
  });
});

describe("tokens that were added to a tokenizer", () => {
  test.each(golden.added)("have the ids that transformers and diffusers give: $name", async ({ files, ids }) => {
    const { "tokenizer.json": joint, ...others } = files;
    const model = { type: "BPE", end_of_word_suffix: "</w>", vocab: golden.vocab, merges: golden.merges };
    const tokenizer = await openClipTokenizer(
      await folderOf(joint ? { "tokenizer.json": { model, ...joint }, ...others } : whole(files)),
    );
    for (const [i, prompt] of golden.added_prompts.entries()) {
      expect(tokenizer.encode(prompt).ids, prompt).toEqual(ids[i]);
    }
  });

  test("count as a part of the vocabulary, and may be the padding", async () => {
    const size = Object.keys(golden.vocab).length;
    const tokenizer = await openClipTokenizer(
      await folderOf(
        whole({
          "tokenizer_config.json": { model_max_length: 12, pad_token: "[PAD]" },
          "added_tokens.json": { "[PAD]": size },
        }),
      ),
    );
    expect(tokenizer).toMatchObject({ vocabularySize: size + 1, padId: size });
  });

  test.each([
    [{ "<foo>": 3 }, { token: "<foo>", id: 3 }],
    [{ "<|endoftext|>": 4000 }, { token: "<|endoftext|>", id: 4000 }],
    [
      { "<foo>": 4000, "<bar>": 4000 },
      { token: "<bar>", id: 4000, other: "<foo>" },
    ],
  ])("are refused if they take an id for two texts, or a text for two ids: %j", async (added, facts) => {
    const folder = await folderOf(whole({ "added_tokens.json": added }));
    await expect(openClipTokenizer(folder)).rejects.toThrow(
      inputError("file-malformed", { path: join(folder, "added_tokens.json"), ...facts }),
    );
  });

  test("are refused by the name of a flag that is not supported", async () => {
    const added_tokens_decoder = { "4000": { content: "<foo>", single_word: true } };
    const folder = await folderOf(whole({ "tokenizer_config.json": { added_tokens_decoder } }));
    await expect(openClipTokenizer(folder)).rejects.toThrow(
      inputError("config-invalid", { keys: ["added_tokens_decoder.4000.single_word"] }),
    );
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

  test("has special ids, a length and a vocabulary size", async () => {
    const tokenizer = await openClipTokenizer(await folderOf(whole()));
    expect(tokenizer).toMatchObject({
      maxLength: 12,
      vocabularySize: Object.keys(golden.vocab).length,
      startId: golden.vocab["<|startoftext|>"],
      endId: golden.vocab["<|endoftext|>"],
      padId: golden.vocab["<|endoftext|>"],
    });
  });

  test("decodes ids to readable text, and an empty list to an empty string", async () => {
    const tokenizer = await openClipTokenizer(await folderOf(whole()));
    expect(tokenizer.decode(tokenizer.encode("Two cats on grass").ids.slice(1, 5))).toBe("two cats on grass");
    expect(tokenizer.decode([])).toBe("");
  });

  test.each([{}, { model_max_length: 1e30 }])("without a length has CLIP's 77 tokens: %j", async (config) => {
    const tokenizer = await openClipTokenizer(await folderOf(whole({ "tokenizer_config.json": config })));
    expect(tokenizer.encode("a cat").ids).toHaveLength(77);
  });
});

test("texts are truncated to the positions of the text model", async () => {
  const folder = await folderOf(whole({ "tokenizer_config.json": { model_max_length: 77 } }));
  const tokenizer = await openClipTokenizer(folder, { contextLength: 5 });
  const { ids, truncated } = tokenizer.encode("a photo of a cat");
  expect(ids).toEqual(tokenizer.encode("a photo of").ids);
  expect(ids).toHaveLength(5);
  expect(truncated).toBe("a cat");
});

describe("a folder is refused if it", () => {
  /** `facts` may omit the path if it is `file` in the folder. */
  async function refuse(files: Record<string, unknown>, code: ErrorCode, facts: ErrorFacts, file: string) {
    const folder = await folderOf(files);
    await expect(openClipTokenizer(folder)).rejects.toThrow(inputError(code, { path: join(folder, file), ...facts }));
  }
  const { "tokenizer_config.json": config } = whole();

  test("is missing", async () => {
    await expect(openClipTokenizer(join(root, "nowhere"))).rejects.toThrow(InputError);
  });

  test("has no configuration", async () => {
    const folder = await folderOf({ "vocab.json": golden.vocab, "merges.txt": MERGES });
    await expect(openClipTokenizer(folder)).rejects.toThrow(InputError);
    await expect(openClipTokenizer(folder)).rejects.toThrow("tokenizer_config.json");
  });

  test("has no vocabulary", async () => {
    const folder = await folderOf({ "tokenizer_config.json": config, "vocab.json": {} });
    await expect(openClipTokenizer(folder)).rejects.toThrow(
      inputError("model-incomplete", { path: folder, missing: ["vocab.json", "merges.txt", "tokenizer.json"] }),
    );
  });

  test("has another kind of tokenizer", async () => {
    await refuse(
      whole({ "tokenizer_config.json": { tokenizer_class: "T5Tokenizer" } }),
      "config-invalid",
      { keys: ["tokenizer_class"], found: ['"T5Tokenizer"'] },
      "tokenizer_config.json",
    );
    const model = { type: "Unigram", vocab: [], merges: [] };
    await refuse(
      { "tokenizer_config.json": config, "tokenizer.json": { model } },
      "file-malformed",
      { keys: expect.arrayContaining(["model.type"]), found: expect.arrayContaining(['"Unigram"']) },
      "tokenizer.json",
    );
  });

  test("has no room for a start and an end token", () =>
    refuse(
      whole({ "tokenizer_config.json": { model_max_length: 1 } }),
      "config-invalid",
      { keys: ["model_max_length"], found: ["1"] },
      "tokenizer_config.json",
    ));

  test("lacks a special token in its vocabulary", () =>
    refuse(
      whole({ "tokenizer_config.json": { pad_token: { content: "[PAD]" } } }),
      "model-mismatch",
      { token: "[PAD]", role: "pad_token" },
      "vocab.json",
    ));

  test("has a special token with the name of an inherited property", () =>
    refuse(
      whole({ "tokenizer_config.json": { pad_token: "constructor" } }),
      "model-mismatch",
      { token: "constructor", role: "pad_token" },
      "vocab.json",
    ));

  test.each<[unknown, ErrorFacts]>([
    [[], { found: "[]" }],
    ["{", { reason: expect.stringContaining("JSON") }],
    [{ a: 1.5 }, { token: "a", found: "1.5" }],
    [{ a: "1" }, { token: "a", found: '"1"' }],
    [{ a: 4e9 }, { token: "a", found: "4000000000", limit: 2 ** 20 }],
    [
      { a: 0, b: 0 },
      { token: "b", id: 0, other: "a" },
    ],
  ])("has the vocabulary %j", (vocab, facts) =>
    refuse(whole({ "vocab.json": vocab }), "file-malformed", facts, "vocab.json"),
  );

  test.each<[string, ErrorCode, ErrorFacts]>([
    ["a b c", "file-malformed", { merge: 1, found: '"a b c"' }],
    ["#version: 0.2\na", "file-malformed", { merge: 2, found: '"a"' }],
    ["a zebra", "model-mismatch", { merge: 1, token: "zebra" }],
    ["q q", "model-mismatch", { merge: 1, token: "qq" }],
  ])("has the merges %j", (merges, code, facts) => refuse(whole({ "merges.txt": merges }), code, facts, "merges.txt"));
});
