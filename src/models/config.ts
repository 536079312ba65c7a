import { z } from "zod";
import { InputError, nearest, quote } from "../tensor/errors.js";

/**
 * Reads a config.json of the diffusers or transformers kind. Keys that a schema does not name are left alone: files hold
 * many that change nothing here. Those that would change the model are named, with the values that are supported.
 */
export function parseConfig<T extends z.ZodType>(schema: T, json: unknown, file: string): z.output<T> {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const faults = result.error.issues.map((issue) => {
    const found = issue.path.reduce<unknown>(
      (at, key) => (at as Record<PropertyKey, unknown> | undefined)?.[key],
      json,
    );
    const where = issue.path.length > 0 ? showPath(issue.path) : "the file";
    if (issue.code === "invalid_value") {
      const supported = issue.values.map((value) => String(value));
      const near = typeof found === "string" && supported.length > 1 ? nearest(found, supported) : undefined;
      return `${where} is ${show(found)}; supported: ${supported.join(", ")}${near ? ` (nearest: ${near})` : ""}`;
    }
    return issue.code === "custom" ? `${where}: ${issue.message}` : `${where} is ${show(found)}: ${issue.message}`;
  });
  const more = faults.length > 10 ? [`… and ${faults.length - 10} more`] : [];
  throw new InputError(`${file}: ${[...faults.slice(0, 10), ...more].join("\n  ")}`);
}

/** down_block_types[1] */
function showPath(path: readonly PropertyKey[]): string {
  return path.map((key, i) => (typeof key === "number" ? `[${key}]` : `${i > 0 ? "." : ""}${String(key)}`)).join("");
}

function show(value: unknown): string {
  return value === undefined ? "missing" : quote(value);
}

export const upTo = (most: number) => z.int().positive().max(most);
/** Extents and amounts. The bound is far above any real one; it keeps a hostile file from filling the memory. */
export const count = upTo(2 ** 20);
/** How often a part is repeated; each repetition is more graph. */
export const depth = upTo(1000);

/** A key that other models of the class use, and this one only at its neutral value (null is Python's None). */
export function only<T extends string | number | boolean | null>(value: T) {
  return z.literal(value).optional();
}
