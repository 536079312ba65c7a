/** How a failed command ends: what it says, and with which exit code. */
import { CommanderError } from "commander";
import { ClusterFailure, StopRequest } from "../cluster/index.js";
import { InputError } from "../errors/index.js";

export const exitCodes = { done: 0, failed: 1, badInput: 2 } as const;

export interface Failure {
  readonly exitCode: number;
  /** Nothing where it has been said already. */
  readonly message?: string;
}

export function failureOf(error: unknown, verbose: boolean): Failure {
  if (error instanceof CommanderError) {
    // commander has printed its message, or the help that was asked for.
    return { exitCode: error.exitCode === 0 ? exitCodes.done : exitCodes.badInput };
  }
  if (error instanceof InputError) return { exitCode: exitCodes.badInput, message: `error: ${error.message}` };
  if (error instanceof ClusterFailure) {
    return error.input
      ? { exitCode: exitCodes.badInput, message: `error: ${error.message}` }
      : { exitCode: exitCodes.failed, message: `failed: ${error.message}` };
  }
  if (error instanceof StopRequest || (error instanceof Error && error.name === "AbortError")) {
    return { exitCode: exitCodes.failed, message: "stopped; nothing was written" };
  }
  const message = error instanceof Error ? error.message || error.name : String(error);
  const trace = error instanceof Error && error.stack !== undefined ? error.stack : message;
  return {
    exitCode: exitCodes.failed,
    message: verbose ? `failed: ${trace}` : `failed: ${message}\n(--verbose shows where)`,
  };
}
