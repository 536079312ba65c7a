import { join } from "node:path";
import { expect } from "vitest";
import { runCommandLine } from "../src/cli/program.js";

export interface CommandResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command in this process. */
export async function alignprop(...args: string[]): Promise<CommandResult> {
  const [printed, said]: [string[], string[]] = [[], []];
  const code = await runCommandLine(args, {
    isTTY: false,
    print: (line) => printed.push(line),
    say: (line) => said.push(line),
    update: (line) => said.push(line),
  });
  return { code, stdout: printed.join("\n"), stderr: said.join("\n") };
}

/** The compiled program. `test/build.ts` compiles it before the tests. */
export const PROGRAM = join(import.meta.dirname, "../dist/src/cli/main.js");

/** What `--json` prints for a failed command. */
export interface ReportedError {
  readonly code: string;
  readonly message: string;
  /** The facts. */
  readonly [fact: string]: unknown;
}

/**
 * The error of a command that was run with `--json`. Checks that stdout has nothing else, that stderr has the same message
 * once and no stack trace, and the exit code.
 */
export function errorOf({ code, stdout, stderr }: CommandResult, exitCode = 2): ReportedError {
  expect([code, stdout.trimEnd().split("\n").length], stderr + stdout).toEqual([exitCode, 1]);
  const { error, ...others } = JSON.parse(stdout) as { error: ReportedError };
  expect(others).toEqual({});
  expect(stderr).toContain(`${exitCode === 2 ? "error" : "failed"}: ${error.message}`);
  expect(stderr.match(/^(error|failed): /gm)).toHaveLength(1);
  expect(stderr).not.toMatch(/\n\s+at |node:internal|file:\/\//);
  return error;
}
