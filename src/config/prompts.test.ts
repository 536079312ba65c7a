import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { InputError } from "../errors/index.js";
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

async function refusal(source: string | readonly string[]): Promise<string> {
  const error = await resolvePrompts(source, { setting: "prompts.eval" }).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(InputError);
  return (error as InputError).message;
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
  test("is taken as it stands, without spaces around", async () => {
    expect(await resolvePrompts([" a red fox ", "snail"])).toEqual(["a red fox", "snail"]);
  });

  test("that is empty or has an empty entry is refused", async () => {
    expect(await refusal([])).toContain("prompts.eval: the list is empty");
    expect(await refusal(["cat", " "])).toContain("prompt 2 of 2");
  });

  test("with a misspelt name gets the nearest name and the whole choice", async () => {
    const message = await refusal("held-out-animal");
    expect(message).toContain('did you mean "held-out-animals"?');
    expect(message).toContain("Known lists are animals and held-out-animals");
    expect(await refusal("toString")).toContain("is not a list of prompts.");
  });
});

describe("a prompt file", () => {
  test("gives a prompt a line, whatever ends its lines, skipping blank ones", async () => {
    expect(await resolvePrompts(await file("\uFEFFcat\r\n\r\n  two dogs \na 🐙\rsnail"))).toEqual([
      "cat",
      "two dogs",
      "a 🐙",
      "snail",
    ]);
  });

  test("that is absent, a folder, empty or not text is refused with its path", async () => {
    const absent = join(folder, "none.txt");
    expect(await refusal(absent)).toMatch(/^prompts\.eval: .*none\.txt: .*no such file/);
    const directory = join(folder, "folder.txt");
    await mkdir(directory);
    expect(await refusal(directory)).toContain("is a folder");
    expect(await refusal(await file("\n \n"))).toContain("holds no prompts");
    expect(await refusal(await file(Uint8Array.of(0xff, 0xfe, 0x61, 0)))).toContain("not UTF-8");
  });

  test("with more than a run's config.yaml can hold is refused with what is too much", async () => {
    expect(await refusal(await file(`cat\n${"dog ".repeat(1025)}\n`))).toMatch(
      /prompts\.txt:2: has 4099 characters, and a prompt at most 4096/,
    );
    expect(await refusal(await file("cat\n".repeat(100_001)))).toContain("holds 100001 prompts; keep at most 100000");
  });
});
