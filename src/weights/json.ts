import type { z } from "zod";
import { InputError } from "../tensor/errors.js";
import { readText } from "./files.js";

const MEBIBYTE = 2 ** 20;

/** A JSON file checked against `schema`; the InputError of a file that does not fit names every key at fault. */
export async function readJson<S extends z.ZodType>(
  path: string,
  schema: S,
  maxBytes = MEBIBYTE,
): Promise<z.output<S>> {
  const value = parseJson(await readText(path, maxBytes), path);
  const checked = schema.safeParse(value);
  if (checked.success) return checked.data;
  const faults = checked.error.issues.map((issue) => {
    const key = issue.path.length > 0 ? issue.path.join(".") : "the whole file";
    return `  ${key}: ${issue.message}, found ${show(valueAt(value, issue.path))}`;
  });
  const more = faults.length > 10 ? [`  … and ${faults.length - 10} more`] : [];
  throw new InputError([`${path}: does not hold what is expected here:`, ...faults.slice(0, 10), ...more].join("\n"));
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

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce((at: unknown, key) => (at as Record<PropertyKey, unknown> | undefined)?.[key], value);
}

function show(value: unknown): string {
  if (value === undefined) return "nothing";
  const text = JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 77)}…` : text;
}
