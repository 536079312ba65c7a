import type { z } from "zod";
import { InputError, nearest, quote } from "../errors/index.js";
import { readText } from "./files.js";

const MEBIBYTE = 2 ** 20;
const MOST_FAULTS = 10;

/** A JSON file checked against `schema`; the InputError of a file that does not fit names every key at fault. */
export async function readJson<S extends z.ZodType>(
  path: string,
  schema: S,
  maxBytes = MEBIBYTE,
): Promise<z.output<S>> {
  return checkJson(schema, parseJson(await readText(path, maxBytes), path), path);
}

/** Far deeper than any file read here. What walks values later may then recurse, as JSON.stringify does. */
const DEEPEST = 100;

export function parseJson(text: string, where: string): unknown {
  if (isDeeper(text, DEEPEST)) {
    throw new InputError(
      "file-unreadable",
      `${where}: is nested more than ${DEEPEST} levels deep. Is it the right file?`,
    );
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    // V8 quotes the whole neighbourhood of the fault, line breaks included.
    const reason = (error as Error).message.replace(/\s+/g, " ").slice(0, 200);
    throw new InputError("file-unreadable", `${where}: is not valid JSON: ${reason}`);
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

/** What `schema` makes of a parsed file, or an InputError with each key at fault, what it holds and what it may hold. */
export function checkJson<S extends z.ZodType>(schema: S, json: unknown, where: string): z.output<S> {
  const checked = schema.safeParse(json);
  if (checked.success) return checked.data;
  const { issues } = checked.error;
  const faults = issues.slice(0, MOST_FAULTS).map((issue) => faultOf(issue, valueAt(json, issue.path)));
  if (issues.length > MOST_FAULTS) faults.push(`… and ${issues.length - MOST_FAULTS} more`);
  throw new InputError("file-unreadable", `${where}: ${faults.join("\n  ")}`);
}

function faultOf(issue: z.core.$ZodIssue, found: unknown): string {
  const key = issue.path.length > 0 ? showPath(issue.path) : "the file";
  switch (issue.code) {
    case "invalid_value": {
      const supported = issue.values.map((value) => String(value));
      const near = typeof found === "string" && supported.length > 1 ? nearest(found, supported) : undefined;
      return `${key} is ${show(found)}; supported: ${supported.join(", ")}${near ? ` (nearest: ${near})` : ""}`;
    }
    case "custom":
      return `${key}: ${issue.message}`;
    default:
      return `${key} is ${show(found)}: ${issue.message}`;
  }
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce((at: unknown, key) => (at as Record<PropertyKey, unknown> | undefined)?.[key], value);
}

/** down_block_types[1] */
function showPath(path: readonly PropertyKey[]): string {
  return path.map((key, i) => (typeof key === "number" ? `[${key}]` : `${i > 0 ? "." : ""}${String(key)}`)).join("");
}

function show(value: unknown): string {
  return value === undefined ? "missing" : quote(value);
}
