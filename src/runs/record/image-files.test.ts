import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { findImages } from "./image-files.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-images-"));
afterAll(() => rm(scratch, { recursive: true }));

test("a folder stands for its images in order, with the prompts of its index.json", async () => {
  const index = [{ file: "a.png", prompt: "a fox", seed: 1 }];
  await writeFile(join(scratch, "index.json"), JSON.stringify(index));
  for (const name of ["b.JPG", "a.png", "notes.txt"]) await writeFile(join(scratch, name), "");
  const [a, b] = [join(scratch, "a.png"), join(scratch, "b.JPG")];
  expect(await findImages([scratch, b])).toEqual([{ file: a, prompt: "a fox" }, { file: b }, { file: b }]);
});

test("a folder without images and a missing file are errors", async () => {
  const empty = join(scratch, "empty");
  await mkdir(empty);
  await expect(findImages([empty])).rejects.toThrow(inputError("file-not-found", { path: empty, expected: "images" }));
  const missing = join(scratch, "missing.png");
  await expect(findImages([missing])).rejects.toThrow(inputError("file-not-found", { path: missing }));
});

test("a file of another kind is named as what it is", async () => {
  const lora = fileURLToPath(
    new URL("../../../test/goldens/adapters/kohya/pytorch_lora_weights.safetensors", import.meta.url),
  );
  await expect(findImages([lora])).rejects.toThrow(inputError("image-invalid", { path: lora, found: "adapter" }));
});
