import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { writeFileAtomic } from "./atomic.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "alignprop-atomic-"));
});
afterAll(() => rm(folder, { recursive: true }));

test("text, bytes and chunks replace the old content", async () => {
  const path = join(folder, "metrics.json");
  await writeFile(path, "something longer than what follows");
  await writeFileAtomic(path, "{}");
  expect(await readFile(path, "utf8")).toBe("{}");
  await writeFileAtomic(path, Uint8Array.of(1, 2));
  expect([...(await readFile(path))]).toEqual([1, 2]);
  await writeFileAtomic(path, [Uint8Array.of(1), Uint8Array.of(), Uint8Array.of(2, 3)]);
  expect([...(await readFile(path))]).toEqual([1, 2, 3]);
});

test("a failure midway keeps the old file and leaves no temporary file", async () => {
  const own = await mkdtemp(join(folder, "own-"));
  const path = join(own, "state");
  await writeFileAtomic(path, "old");
  function* chunks() {
    yield new TextEncoder().encode("new, but");
    throw new Error("the source failed");
  }
  await expect(writeFileAtomic(path, chunks())).rejects.toThrow("the source failed");
  expect(await readFile(path, "utf8")).toBe("old");
  expect(await readdir(own)).toEqual(["state"]);
});

test("a target that cannot be written is an InputError with its path", async () => {
  const missing = join(folder, "nowhere", "file");
  await expect(writeFileAtomic(missing, "")).rejects.toThrow(
    inputError("output-unwritable", { path: missing, reason: "ENOENT" }),
  );
  const occupied = join(folder, "occupied");
  await mkdir(occupied);
  await expect(writeFileAtomic(occupied, "")).rejects.toThrow(inputError("output-unwritable", { path: occupied }));
  expect(await readdir(folder)).not.toContainEqual(expect.stringMatching(/\.tmp$/));
});
