import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { readImage } from "./read.js";
import { writePng } from "./write.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-write-"));
afterAll(() => rm(scratch, { recursive: true }));

const image = { width: 2, height: 1, pixels: Uint8Array.of(1, 2, 3, 250, 251, 252) };

test("writePng writes a file from which readImage reads the same image, in a new folder", async () => {
  const path = join(scratch, "new", "image.png");
  await writePng(path, image);
  expect(await readImage(path)).toEqual(image);
});

test("writePng refuses a path below a file", async () => {
  const file = join(scratch, "file");
  await writeFile(file, "");
  const path = join(file, "image.png");
  await expect(writePng(path, image)).rejects.toThrow(inputError("output-unwritable", { path }));
});
