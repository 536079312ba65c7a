/** How a command that fails ends: the message on stderr, the error on stdout with `--json`, and the exit code. */
import { ClusterFailure, StopRequest } from "../cluster/index.js";
import { type ErrorCode, type ErrorFacts, InputError } from "../errors/index.js";
import type { CommonOptions } from "./options.js";
import { snakeCase } from "./snake-case.js";
import type { Terminal } from "./terminal.js";

export const exitCodes = { done: 0, failed: 1, badInput: 2 } as const;

interface Failure {
  readonly exitCode: number;
  /** `failed` for an unexpected error, `interrupted` if the user ended a command that had no result yet. */
  readonly code: ErrorCode | "failed" | "interrupted";
  readonly message: string;
  readonly facts?: ErrorFacts;
  /** Shown on stderr below the message. */
  readonly detail?: string;
}

/**
 * Reports an error and returns the exit code. The message goes to stderr. With `--json`, stdout gets one line,
 * `{"error": {"code": …, "message": …, …facts}}`.
 */
export function reportFailure(error: unknown, terminal: Terminal, { verbose, json }: CommonOptions): number {
  const { exitCode, code, message, facts, detail } = failureOf(error, verbose === true);
  const label = code === "interrupted" ? "" : exitCode === exitCodes.badInput ? "error: " : "failed: ";
  terminal.say(`${label}${message}${detail === undefined ? "" : `\n${detail}`}`);
  if (json) {
    // Facts cannot replace the code or the message.
    const reported = Object.assign({ code, message }, snakeCase(facts ?? {}), { code, message });
    terminal.print(JSON.stringify({ error: reported }));
  }
  return exitCode;
}

function failureOf(error: unknown, verbose: boolean): Failure {
  if (error instanceof InputError) {
    const { code, message, facts } = error;
    return { exitCode: exitCodes.badInput, code, message, facts };
  }
  if (error instanceof ClusterFailure) {
    const { code = "failed", message, facts, input } = error;
    return { exitCode: input ? exitCodes.badInput : exitCodes.failed, code, message, facts };
  }
  if (error instanceof StopRequest || (error instanceof Error && error.name === "AbortError")) {
    return { exitCode: exitCodes.failed, code: "interrupted", message: "interrupted; nothing was written" };
  }
  const message = error instanceof Error ? error.message || error.name : String(error);
  const stack = error instanceof Error ? error.stack : undefined;
  const detail = verbose ? stack : "(Add --verbose to see where.)";
  return { exitCode: exitCodes.failed, code: "failed", message, ...(detail !== undefined && { detail }) };
}
