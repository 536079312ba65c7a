import { expect } from "vitest";
import type { ErrorCode, ErrorFacts } from "../src/errors/index.js";

/**
 * Matches an `InputError` by its code and at least these facts, whatever its message says.
 *
 * @example
 * expect(() => parse(text)).toThrow(inputError("setting-unknown", { setting: "lora.rnak" }));
 */
export function inputError(code: ErrorCode, facts: ErrorFacts = {}): Error {
  return expect.objectContaining({ name: "InputError", code, facts: expect.objectContaining(facts) });
}
