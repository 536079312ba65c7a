import type { z } from "zod";
import { InputError, nearest } from "../tensor/errors.js";
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

export function parseJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    // V8 quotes the whole neighbourhood of the fault, line breaks included.
    const reason = (error as Error).message.replace(/\s+/g, " ").slice(0, 200);
    throw new InputError(`${where}: is not valid JSON: ${reason}`);
  }
}

/** What `schema` makes of a parsed file, or an InputError with each key at fault, what it holds and what it may hold. */
export function checkJson<S extends z.ZodType>(schema: S, json: unknown, where: string): z.output<S> {
  const checked = schema.safeParse(json);
  if (checked.success) return checked.data;
  const { issues } = checked.error;
  const faults = issues.slice(0, MOST_FAULTS).map((issue) => faultOf(issue, valueAt(json, issue.path)));
  if (issues.length > MOST_FAULTS) faults.push(`… and ${issues.length - MOST_FAULTS} more`);
  throw new InputError(`${where}: ${faults.join("\n  ")}`);
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
  if (value === undefined) return "missing";
  const text = JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 77)}…` : text;
}
