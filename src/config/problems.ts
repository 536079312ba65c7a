/** zod's issues in a user's words: what the key may hold, what was found, and the nearest thing that would work. */
import type { z } from "zod";
import { nearest } from "../errors/index.js";
import { settingsSchema } from "./settings.js";

export interface Problem {
  readonly path: readonly PropertyKey[];
  /** Begins with the key's full path. */
  readonly message: string;
}

export function describeIssue(issue: z.core.$ZodIssue): Problem[] {
  const path = issue.path;
  const key = path.join(".") || "the recipe";
  const say = (expected: string, found = issue.input) => [
    { path, message: `${key} must be ${expected}, found ${show(found)}` },
  ];
  switch (issue.code) {
    case "unrecognized_keys":
      return issue.keys.map((unknown) => ({
        path: [...path, unknown],
        message: unknownKey(path, unknown, issue.input),
      }));
    case "invalid_type":
      return say(kinds[issue.expected] ?? `a ${issue.expected}`);
    case "too_small":
    case "too_big": {
      const low = issue.code === "too_small";
      const limit = Number(low ? issue.minimum : issue.maximum);
      if (Array.isArray(issue.input)) return say(`a list of ${low ? "at least" : "at most"} ${limit}`);
      if (typeof issue.input === "string")
        return say(low ? "a text that is not empty" : `at most ${limit} characters long`);
      return say(`${issue.inclusive ? (low ? "at least" : "at most") : low ? "more than" : "less than"} ${limit}`);
    }
    case "invalid_value":
      return oneOf(path, issue.values, issue.input);
    case "invalid_union": {
      if (issue.discriminator === undefined) return say("a text or a list of texts");
      // A recipe cannot choose a reward or an estimator that is made in code.
      const options = (allKeys.get(namesOnly(path).join(".")) ?? []).filter((name) => name !== "code");
      const mapping = issue.input as Record<string, unknown> | undefined;
      return oneOf(path, options, mapping?.[issue.discriminator]);
    }
    default:
      return [
        { path, message: `${key}: ${issue.message}${issue.input === undefined ? "" : `, found ${show(issue.input)}`}` },
      ];
  }
}

const kinds: Readonly<Record<string, string>> = {
  int: "a whole number",
  number: "a number",
  string: "a text",
  boolean: "true or false",
  array: "a list",
  object: "a mapping (key: value)",
};

function oneOf(path: readonly PropertyKey[], options: readonly unknown[], found: unknown): Problem[] {
  // Words of three letters are near to too much: gpu is not cpu.
  const suggestion = typeof found === "string" && found.length > 3 ? nearest(found, options.map(String)) : undefined;
  const remedy = suggestion === undefined ? "" : `; did you mean ${suggestion}?`;
  const expected = options.length === 1 ? String(options[0]) : `one of ${options.join(", ")}`;
  return [{ path, message: `${path.join(".")} must be ${expected}, found ${show(found)}${remedy}` }];
}

function unknownKey(parent: readonly PropertyKey[], key: string, siblings: unknown): string {
  const full = [...parent, key].join(".");
  const inside = namesOnly(parent).join(".");
  const prefix = inside === "" ? "" : `${inside}.`;
  const known = [...allKeys.keys()].filter((k) => k.startsWith(prefix) && !k.slice(prefix.length).includes("."));
  if (known.includes(`${prefix}${key}`)) {
    // A key of a union's other member, such as `mean` beside `mode: fixed`.
    const choice = Object.entries(siblings as object).find(([name]) => name === "mode" || name === "name");
    return `${full} does not go with ${choice?.join(": ")}`;
  }
  const elsewhere = [...allKeys.keys()].find((k) => k.endsWith(`.${key}`));
  const near = nearest(
    key,
    known.map((k) => k.slice(prefix.length)),
  );
  const suggestion = near === undefined ? elsewhere : `${prefix}${near}`;
  return `${full} is no setting; ${suggestion === undefined ? `known here: ${known.join(", ")}` : `did you mean ${suggestion}?`}`;
}

/** Every key of the schema by its full path, with the values that a choice allows. */
const allKeys = keysOf(settingsSchema);

function keysOf(schema: unknown, prefix = "", found = new Map<string, unknown[]>()): Map<string, unknown[]> {
  const { def } = schema as { def: SchemaDefinition };
  switch (def.type) {
    case "object":
      for (const [key, child] of Object.entries(def.shape ?? {})) {
        if (!found.has(prefix + key)) found.set(prefix + key, []);
        const { def: inner } = child as { def: SchemaDefinition };
        if (inner.type === "literal") found.get(prefix + key)?.push(...(inner.values ?? []));
        keysOf(child, `${prefix}${key}.`, found);
      }
      break;
    case "union":
      for (const option of def.options ?? []) keysOf(option, prefix, found);
      break;
    case "pipe":
      keysOf(def.out, prefix, found);
      break;
    case "array":
      keysOf(def.element, prefix, found);
      break;
    default:
      if (def.innerType !== undefined) keysOf(def.innerType, prefix, found);
  }
  return found;
}

interface SchemaDefinition {
  readonly type: string;
  readonly shape?: Record<string, unknown>;
  readonly options?: readonly unknown[];
  readonly values?: readonly unknown[];
  readonly innerType?: unknown;
  readonly out?: unknown;
  readonly element?: unknown;
}

/** List indices have no place in a key's name. */
function namesOnly(path: readonly PropertyKey[]): string[] {
  return path.filter((key) => typeof key === "string");
}

function show(value: unknown): string {
  if (value === undefined) return "nothing";
  if (typeof value === "number") return String(value);
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}
