import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { InputError } from "../errors/index.js";
import { writeFileAtomic } from "./atomic.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "alignprop-atomic-"));
});
afterAll(() => rm(folder, { recursive: true }));

test("text, bytes and chunks replace what was there", async () => {
  const path = join(folder, "metrics.json");
  await writeFile(path, "something longer than what follows");
  await writeFileAtomic(path, "{}");
  expect(await readFile(path, "utf8")).toBe("{}");
  await writeFileAtomic(path, Uint8Array.of(1, 2));
  expect([...(await readFile(path))]).toEqual([1, 2]);
  await writeFileAtomic(path, [Uint8Array.of(1), Uint8Array.of(), Uint8Array.of(2, 3)]);
  expect([...(await readFile(path))]).toEqual([1, 2, 3]);
});

test("a failure half-way keeps the old file and leaves nothing beside it", async () => {
  const own = await mkdtemp(join(folder, "own-"));
  const path = join(own, "state");
  await writeFileAtomic(path, "old");
  function* chunks() {
    yield new TextEncoder().encode("new, but");
    throw new Error("the source broke off");
  }
  await expect(writeFileAtomic(path, chunks())).rejects.toThrow("the source broke off");
  expect(await readFile(path, "utf8")).toBe("old");
  expect(await readdir(own)).toEqual(["state"]);
});

test("a target that cannot be written is an InputError naming it", async () => {
  const missing = join(folder, "nowhere", "file");
  await expect(writeFileAtomic(missing, "")).rejects.toThrow(InputError);
  await expect(writeFileAtomic(missing, "")).rejects.toThrow(`${missing}: cannot write this`);
  const occupied = join(folder, "occupied");
  await mkdir(occupied);
  await expect(writeFileAtomic(occupied, "")).rejects.toThrow(InputError);
  expect(await readdir(folder)).not.toContainEqual(expect.stringMatching(/\.tmp$/));
});
