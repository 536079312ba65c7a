import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { startServer } from "../../../test/small-server.js";
import { PEFT_FILE } from "../../weights/lora-files.js";
import { filesToPush } from "./adapter-files.js";
import { push, requireRepoId, requireToken } from "./push.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-push-"));
afterAll(() => rm(scratch, { recursive: true }));

describe("the files to push", () => {
  test("are those of an adapter, not of an empty folder", async () => {
    await mkdir(join(scratch, "empty"));
    const path = join(scratch, "empty");
    await expect(filesToPush(path)).rejects.toThrow(inputError("file-not-found", { path, expected: PEFT_FILE }));
  });

  test("come from a folder that exists", async () => {
    const path = join(scratch, "none");
    await expect(filesToPush(path)).rejects.toThrow(inputError("file-not-found", { path }));
    const file = join(scratch, "file");
    await writeFile(file, "");
    await expect(filesToPush(file)).rejects.toThrow(inputError("file-unreadable", { path: file, found: "file" }));
  });
});

test("a push needs a token", () => {
  expect(() => requireToken({ endpoint: "https://hub", token: undefined, cache: scratch, offline: false })).toThrow(
    inputError("hub-denied", { variable: "HF_TOKEN" }),
  );
});

test.each(["fox", "me/fox/more", "../fox", "me/f ox", "me/", `me/${"x".repeat(97)}`])(
  "%j is not the id of a repository",
  (repo) => {
    expect(() => requireRepoId(repo)).toThrow(inputError("hub-id-invalid", { repo, expected: "OWNER/NAME" }));
  },
);

test.each([
  [401, "hub-denied" as const],
  [403, "hub-denied" as const],
])("the hub's answer %i is an error of kind %s", async (status, code) => {
  const server = await startServer(() => ({ status, json: { error: "no" } }));
  try {
    const hubUrl = server.address;
    const target = { repo: "me/fox", revision: "main", private: false, hubUrl, token: "hf_abc" };
    await expect(push([], target)).rejects.toThrow(inputError(code, { repo: "me/fox", server: hubUrl, status }));
  } finally {
    await server.close();
  }
});
