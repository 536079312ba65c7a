import { expect, test } from "vitest";
import { ClusterFailure, StopRequest } from "../cluster/index.js";
import { InputError } from "../errors/index.js";
import { reportFailure } from "./failure.js";
import { shellCommand } from "./shell.js";

function report(failure: unknown, { verbose = false } = {}) {
  const [printed, said]: [string[], string[]] = [[], []];
  const terminal = {
    isTTY: false,
    print: (line: string) => printed.push(line),
    say: (line: string) => said.push(line),
    update: () => {},
  };
  const exitCode = reportFailure(failure, terminal, { json: true, verbose });
  return { exitCode, error: JSON.parse(printed.join("\n")).error, stderr: said.join("\n") };
}

test("bad input has exit code 2, its code and its facts with snake_case keys", () => {
  const facts = { lossScale: 2, tensor: "a.b", shape: [1, 2], absent: undefined };
  expect(report(new InputError("not-finite", "a.b is NaN", facts))).toEqual({
    exitCode: 2,
    error: { code: "not-finite", message: "a.b is NaN", loss_scale: 2, tensor: "a.b", shape: [1, 2] },
    stderr: "error: a.b is NaN",
  });
});

test("facts do not replace the code or the message", () => {
  const { error } = report(new InputError("usage", "why", { code: "x", message: "y", option: "--z" }));
  expect(error).toEqual({ code: "usage", message: "why", option: "--z" });
});

test("an unexpected error has exit code 1, the code failed, and a stack trace with --verbose only", () => {
  const failure = new TypeError("x is not a function");
  const { exitCode, error, stderr } = report(failure);
  expect([exitCode, error]).toEqual([1, { code: "failed", message: "x is not a function" }]);
  expect(stderr).toMatch(/^failed: x is not a function\n.*--verbose/);
  expect(stderr).not.toMatch(/\n\s+at /);
  expect(report(failure, { verbose: true }).stderr).toMatch(/\n\s+at /);
});

test("a failure of several ranks has the code and facts of its cause", () => {
  const facts = { ranks: [1], seconds: 4 };
  expect(report(new ClusterFailure("rank 1 is lost", { ranks: [1], facts }))).toMatchObject({
    exitCode: 1,
    error: { code: "failed", message: "rank 1 is lost", ...facts },
  });
  const input = { ranks: [1], code: "file-not-found", facts: { path: "a.txt", rank: 1 } } as const;
  expect(report(new ClusterFailure("rank 1: a.txt: not found", input))).toMatchObject({
    exitCode: 2,
    error: { code: "file-not-found", path: "a.txt", rank: 1 },
  });
});

test("an interrupted command has exit code 1 and the code interrupted", () => {
  for (const reason of [new StopRequest(), new DOMException("aborted", "AbortError")]) {
    expect(report(reason)).toMatchObject({ exitCode: 1, error: { code: "interrupted" } });
  }
});

test("a command to paste is quoted for the shell if necessary", () => {
  expect(shellCommand("train", "--resume", "runs/a-1")).toBe("npx alignprop train --resume runs/a-1");
  expect(shellCommand("train", "--resume", "it's mine")).toBe("npx alignprop train --resume 'it'\\''s mine'");
});
