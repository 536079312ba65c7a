import type { z } from "zod";
import { InputError, quote } from "../tensor/errors.js";
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
    return `  ${key}: ${issue.message}, found ${quote(valueAt(value, issue.path))}`;
  });
  const more = faults.length > 10 ? [`  … and ${faults.length - 10} more`] : [];
  throw new InputError([`${path}: does not hold what is expected here:`, ...faults.slice(0, 10), ...more].join("\n"));
}

/** Far deeper than any file read here. What walks values later may then recurse, as JSON.stringify does. */
const DEEPEST = 100;

export function parseJson(text: string, where: string): unknown {
  if (isDeeper(text, DEEPEST)) {
    throw new InputError(`${where}: is nested more than ${DEEPEST} levels deep. Is it the right file?`);
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    // V8 quotes the whole neighbourhood of the fault, line breaks included.
    const reason = (error as Error).message.replace(/\s+/g, " ").slice(0, 200);
    throw new InputError(`${where}: is not valid JSON: ${reason}`);
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

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce((at: unknown, key) => (at as Record<PropertyKey, unknown> | undefined)?.[key], value);
}
