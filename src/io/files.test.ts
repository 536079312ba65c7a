import { mkdtemp, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { asInputError, readFully, readText, withFile } from "./files.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "alignprop-files-"));
});
afterAll(() => rm(folder, { recursive: true }));

describe("readText", () => {
  test("gives the text without its byte order mark", async () => {
    const path = join(folder, "text");
    await writeFile(path, "\ufeffäöü");
    expect(await readText(path, 100)).toBe("äöü");
  });

  test("refuses a file that is too large", async () => {
    const path = join(folder, "large");
    await writeFile(path, "12345");
    await expect(readText(path, 4)).rejects.toThrow(inputError("file-too-large", { path, found: 5, limit: 4 }));
  });

  test("refuses bytes that are not UTF-8", async () => {
    const path = join(folder, "latin1");
    await writeFile(path, Uint8Array.of(0xe4));
    await expect(readText(path, 4)).rejects.toThrow(inputError("file-malformed", { path }));
  });

  test("says why a path cannot be read", async () => {
    const at = (name: string) => join(folder, name);
    const [file, loop] = [at("file"), at("loop")];
    await writeFile(file, "");
    await symlink(loop, loop);
    const reasons = [
      [at("missing"), "file-not-found", "ENOENT"],
      [at("file/below"), "file-unreadable", "ENOTDIR"],
      [loop, "file-unreadable", "ELOOP"],
      [at("a\0b"), "file-unreadable", "ERR_INVALID_ARG_VALUE"],
    ] as const;
    for (const [path, code, reason] of reasons) {
      await expect(readText(path, 4)).rejects.toThrow(inputError(code, { path, reason }));
    }
    await expect(readText(folder, 4)).rejects.toThrow(inputError("file-unreadable", { path: folder, found: "folder" }));
  });
});

test("readFully refuses a file that becomes shorter while it is read", async () => {
  const path = join(folder, "shrinking");
  await writeFile(path, "1234567890");
  const read = withFile(path, async (file, size) => {
    await truncate(path, 7);
    await readFully(file, new Uint8Array(size - 2), 2, path);
  });
  await expect(read).rejects.toThrow(inputError("file-malformed", { path, missing: 3 }));
});

test("asInputError leaves errors alone that the user cannot correct", () => {
  const error = new Error("a bug");
  expect(asInputError(error, "a.txt", "read")).toBe(error);
});
