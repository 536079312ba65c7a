/** Reads JSON files and checks them against zod schemas. */
import type { z } from "zod";
import { type ErrorCode, InputError, nearest, quote } from "../errors/index.js";
import { readText } from "./files.js";

const MEBIBYTE = 2 ** 20;

/** Far deeper than any valid file. Code that walks the parsed value may therefore recurse, as JSON.stringify does. */
const MAX_DEPTH = 100;

/** Maximum number of problems that one error lists. */
const MAX_PROBLEMS = 10;

/**
 * Reads a JSON file of at most `maxBytes` and checks it; see `readText`, `parseJson` and `checkJson` for the errors.
 */
export async function readJson<S extends z.ZodType>(
  path: string,
  schema: S,
  maxBytes = MEBIBYTE,
): Promise<z.output<S>> {
  return checkJson(schema, parseJson(await readText(path, maxBytes), path), path);
}

/**
 * `JSON.parse` for untrusted text, which may have the numbers `NaN`, `Infinity` and `-Infinity` as Python writes them.
 * `where` names the source in messages.
 *
 * @throws InputError `file-malformed` if it is not JSON, `file-unsupported` if it is nested too deeply.
 */
export function parseJson(text: string, where: string): unknown {
  if (isDeeper(text, MAX_DEPTH)) {
    throw new InputError(
      "file-unsupported",
      `${where}: is nested more than ${MAX_DEPTH} levels deep. Is it the right file?`,
      { path: where, limit: MAX_DEPTH },
    );
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    const value = parsePythonJson(text);
    if (value !== undefined) return value;
    // V8 quotes the text around the error, with its line breaks.
    const reason = (error as Error).message.replace(/\s+/g, " ").slice(0, 200);
    throw new InputError("file-malformed", `${where}: is not valid JSON: ${reason}`, { path: where, reason });
  }
}

/** A string, or a number that Python's `json` writes and JSON does not have. */
const STRING_OR_NUMBER = /"[^"\\]*(?:\\.[^"\\]*)*"|(?<![\w.])(?:NaN|-?Infinity)(?![\w.])/g;

/** Parses JSON with Python's numbers; undefined if there are none, or the text is still not JSON. */
function parsePythonJson(text: string): unknown {
  // A string that the text does not contain stands for NaN, which no literal of JSON gives.
  let notANumber = "NaN";
  while (text.includes(notANumber) && notANumber.length < 64) notANumber += "#";
  const replaced = text.replace(STRING_OR_NUMBER, (found) => {
    if (found.startsWith('"')) return found;
    return found === "NaN" ? JSON.stringify(notANumber) : found.replace("Infinity", "1e999");
  });
  if (replaced === text) return undefined;
  try {
    return JSON.parse(replaced, (_, value) => (value === notANumber ? Number.NaN : value));
  } catch {
    return undefined;
  }
}

/** Whether brackets outside strings nest deeper than `depth`. */
function isDeeper(json: string, depth: number): boolean {
  let open = 0;
  for (let i = 0; i < json.length; i++) {
    switch (json.charCodeAt(i)) {
      case 0x5b: // [
      case 0x7b: // {
        if (++open > depth) return true;
        break;
      case 0x5d: // ]
      case 0x7d: // }
        open--;
        break;
      case 0x22: // "
        for (i++; i < json.length && json.charCodeAt(i) !== 0x22; i++) if (json.charCodeAt(i) === 0x5c) i++;
    }
  }
  return false;
}

/**
 * Checks parsed JSON against a schema and returns the schema's output. `where` names the source in messages.
 *
 * @throws InputError with `code`. The facts `keys`, `found` and `expected` have one item for each invalid key (the
 *   first 10 of `count`); `suggestion` is the first supported value that a found one may be a misspelling of.
 */
export function checkJson<S extends z.ZodType>(
  schema: S,
  json: unknown,
  where: string,
  code: ErrorCode = "file-malformed",
): z.output<S> {
  const checked = schema.safeParse(json);
  if (checked.success) return checked.data;
  const { issues } = checked.error;
  const problems = issues.slice(0, MAX_PROBLEMS).map((issue) => problemOf(issue, valueAt(json, issue.path)));
  const lines = problems.map(({ message }) => message);
  if (issues.length > MAX_PROBLEMS) lines.push(`… and ${issues.length - MAX_PROBLEMS} more`);
  throw new InputError(code, `${where}: ${lines.join("\n  ")}`, {
    path: where,
    count: issues.length,
    keys: problems.map(({ key }) => key),
    found: problems.map(({ found }) => found),
    expected: problems.map(({ expected }) => expected),
    suggestion: problems.find(({ suggestion }) => suggestion !== undefined)?.suggestion,
  });
}

interface Problem {
  readonly key: string;
  readonly found: string;
  readonly expected: string;
  readonly suggestion?: string | undefined;
  readonly message: string;
}

function problemOf(issue: z.core.$ZodIssue, value: unknown): Problem {
  const key = issue.path.length > 0 ? showPath(issue.path) : "the file";
  const found = value === undefined ? "missing" : quote(value);
  switch (issue.code) {
    case "invalid_value": {
      const supported = issue.values.map((option) => String(option));
      const expected = supported.join(", ");
      const suggestion = typeof value === "string" && supported.length > 1 ? nearest(value, supported) : undefined;
      const hint = suggestion ? ` (nearest: ${suggestion})` : "";
      return { key, found, expected, suggestion, message: `${key} is ${found}; supported: ${expected}${hint}` };
    }
    case "custom":
      return { key, found, expected: issue.message, message: `${key}: ${issue.message}` };
    default:
      return { key, found, expected: issue.message, message: `${key} is ${found}: ${issue.message}` };
  }
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce((at: unknown, key) => (at as Record<PropertyKey, unknown> | undefined)?.[key], value);
}

/** ["down_block_types", 1] → "down_block_types[1]" */
function showPath(path: readonly PropertyKey[]): string {
  return path.map((key, i) => (typeof key === "number" ? `[${key}]` : `${i > 0 ? "." : ""}${String(key)}`)).join("");
}
