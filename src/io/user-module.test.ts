import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { InputError } from "../errors/index.js";
import { loadUserModule } from "./user-module.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-module-"));
afterAll(() => rm(scratch, { recursive: true }));

let files = 0;
async function write(source: string): Promise<string> {
  const file = join(scratch, `module-${files++}.mjs`);
  await writeFile(file, source);
  return file;
}

const callWith = (argument: unknown) => (exported: unknown) => (exported as (x: unknown) => unknown)(argument);

describe("a user's module", () => {
  test("gives its default export, or what that returns if it is a function", async () => {
    const constant = await write("export default { value: 3 };");
    expect(await loadUserModule({ kind: "reward", file: constant }, callWith(0))).toEqual({ value: 3 });
    const double = await write("export default async (x) => 2 * x;");
    expect(await loadUserModule({ kind: "reward", file: double }, callWith(21))).toBe(42);
  });

  test("that fails is reported with its kind, its file and the reason", async () => {
    const file = await write("export default () => { throw new RangeError('too far'); };");
    for (const kind of ["reward", "estimator"] as const) {
      await expect(loadUserModule({ kind, file }, callWith(0))).rejects.toThrow(
        inputError(`${kind}-invalid`, { path: file, problem: "its function failed", reason: "too far" }),
      );
    }
    const broken = await write("export default (");
    await expect(loadUserModule({ kind: "estimator", file: broken }, callWith(0))).rejects.toThrow(
      inputError("estimator-invalid", { path: broken, problem: "the module cannot be imported" }),
    );
  });

  test("may throw an InputError of its own", async () => {
    const file = await write("export default (error) => { throw error; };");
    const error = new InputError("reward-needs-prompt", "no prompt");
    await expect(loadUserModule({ kind: "reward", file }, callWith(error))).rejects.toBe(error);
  });

  test("that does not exist, or is a folder, is reported", async () => {
    for (const file of [join(scratch, "none.mjs"), scratch]) {
      await expect(loadUserModule({ kind: "estimator", file }, callWith(0))).rejects.toThrow(
        inputError("file-not-found", { path: file }),
      );
    }
  });
});
