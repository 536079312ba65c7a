import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { fromNumbers } from "../../tensor/host.js";
import { fromTensors } from "../../weights/source.js";
import { blipConfigOf } from "./config.js";
import { openBertTokenizer } from "./tokenizer.js";

const root = await mkdtemp(join(tmpdir(), "alignprop-blip-"));
afterAll(() => rm(root, { recursive: true }));

test("a checkpoint without the tensors of BLIP is refused with the first missing one", () => {
  const source = fromTensors(new Map([["other", fromNumbers([1], [1])]]), "blip.safetensors");
  expect(() => blipConfigOf(source, "blip")).toThrow(
    inputError("tensor-missing", { path: "blip.safetensors", tensor: "blip.visual_encoder.patch_embed.proj.weight" }),
  );
});

test("a vocabulary without BERT's special tokens is refused", async () => {
  const path = join(root, "vocab.txt");
  await writeFile(path, "[PAD]\n[UNK]\n[CLS]\na\n");
  await expect(openBertTokenizer(root, 4)).rejects.toThrow(inputError("file-malformed", { path, token: "[SEP]" }));
});

test("texts are padded or truncated to the maximum length", async () => {
  await writeFile(join(root, "vocab.txt"), "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\ncat\n");
  const tokenizer = await openBertTokenizer(root, 4);
  expect(tokenizer.encode("Cat")).toEqual({ ids: [2, 5, 3, 0], mask: [1, 1, 1, 0], truncated: undefined });
  expect(tokenizer.encode("a cat cat")).toEqual({ ids: [2, 4, 5, 3], mask: [1, 1, 1, 1], truncated: "cat" });
});
