import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import type { ErrorCode, ErrorFacts } from "../errors/index.js";
import { ANIMALS, HELD_OUT_ANIMALS, resolvePrompts } from "./prompts.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "alignprop-prompts-"));
});
afterAll(() => rm(folder, { recursive: true }));

async function file(content: string | Uint8Array): Promise<string> {
  const path = join(await mkdtemp(join(folder, "case-")), "prompts.txt");
  await writeFile(path, content);
  return path;
}

const setting = "prompts.eval";

async function expectRefused(
  source: string | readonly string[],
  facts: ErrorFacts,
  code: ErrorCode = "prompts-invalid",
): Promise<void> {
  await expect(resolvePrompts(source, { setting })).rejects.toThrow(inputError(code, { setting, ...facts }));
}

describe("the paper's animals", () => {
  test("are 45 to train on and 6 held out, with none in both", () => {
    expect(new Set(ANIMALS).size).toBe(45);
    expect(new Set([...ANIMALS, ...HELD_OUT_ANIMALS]).size).toBe(51);
  });

  test("are found by the names of their lists", async () => {
    expect(await resolvePrompts("animals")).toEqual(ANIMALS);
    expect(await resolvePrompts("held-out-animals")).toEqual(HELD_OUT_ANIMALS);
  });
});

describe("a list of prompts", () => {
  test("is taken as it is, without the spaces around its prompts", async () => {
    expect(await resolvePrompts([" a red fox ", "snail"])).toEqual(["a red fox", "snail"]);
  });

  test("that is empty or has an empty entry is refused", async () => {
    await expectRefused([], { found: 0 });
    await expectRefused(["cat", " "], { number: 2, count: 2 });
  });

  test("with a misspelled name gets the nearest name and all names", async () => {
    const known = ["animals", "held-out-animals"];
    await expectRefused("held-out-animal", { found: "held-out-animal", suggestion: "held-out-animals", known });
    await expectRefused("toString", { found: "toString", suggestion: undefined, known });
  });
});

describe("a prompt file", () => {
  test("has one prompt per line, with any line ending; blank lines are skipped", async () => {
    expect(await resolvePrompts(await file("\uFEFFcat\r\n\r\n  two dogs \na 🐙\rsnail"))).toEqual([
      "cat",
      "two dogs",
      "a 🐙",
      "snail",
    ]);
  });

  test("that is absent, a folder, empty or not text is refused with its path", async () => {
    const absent = join(folder, "none.txt");
    await expectRefused(absent, { path: absent }, "file-not-found");
    const directory = join(folder, "folder.txt");
    await mkdir(directory);
    await expectRefused(directory, { path: directory, found: "folder" }, "file-unreadable");
    const empty = await file("\n \n");
    await expectRefused(empty, { path: empty, found: 0 });
    const binary = await file(Uint8Array.of(0xff, 0xfe, 0x61, 0));
    await expectRefused(binary, { path: binary }, "file-malformed");
  });

  test("counts as empty if it is absent and the caller wants no error", async () => {
    const messages: string[] = [];
    const path = join(folder, "none.txt");
    const prompts = await resolvePrompts(path, { setting, absent: (message) => messages.push(message) });
    expect(prompts).toEqual([]);
    expect(messages).toEqual([expect.stringContaining(path)]);
  });

  test("with more than a run's config.yaml can contain is refused with what is too much", async () => {
    const long = await file(`cat\n${"dog ".repeat(1025)}\n`);
    await expectRefused(long, { path: long, line: 2, found: 4099, limit: 4096 });
    const many = await file("cat\n".repeat(100_001));
    await expectRefused(many, { path: many, found: 100_001, limit: 100_000 });
  });
});
