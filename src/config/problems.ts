/** Describes invalid settings: the key, what it may hold, what was found, and the nearest setting or value that would do. */
import type { z } from "zod";
import { type ErrorCode, type ErrorFact, type ErrorFacts, InputError, nearest } from "../errors/index.js";
import type { Override } from "./overrides.js";
import { lineOf, type RecipeSource } from "./recipe.js";
import { settingsSchema } from "./settings.js";

export interface Problem {
  readonly code: Extract<ErrorCode, "setting-unknown" | "setting-invalid" | "settings-conflict">;
  /** Path of the key in the recipe that the message points to. */
  readonly path: readonly PropertyKey[];
  readonly message: string;
  /** More facts. `setting` is the key at `path` by default. */
  readonly facts?: ErrorFacts | undefined;
}

/** One error for all problems. A single one keeps its code and facts. */
export function problemsError(
  problems: readonly Problem[],
  source: RecipeSource,
  overrides: readonly Override[],
): InputError {
  const all = problems.map(({ code, path, message, facts }) => {
    const place = placeOf(path, source, overrides);
    return {
      code,
      message: `${place.shown}: ${message}`,
      facts: { setting: path.join("."), ...facts, ...place.facts },
    };
  });
  const settings = all.map(({ facts }) => String(facts.setting));
  const [only, ...others] = all;
  if (only && others.length === 0) return new InputError(only.code, only.message, { settings, ...only.facts });
  const messages = all.map(({ message }) => message);
  return new InputError("setting-invalid", `${all.length} settings are wrong:\n  ${messages.join("\n  ")}`, {
    settings,
    problems: messages,
    path: source.path,
  });
}

/** The option that gave the setting, or its line in the recipe: `recipes/x.yaml:12`. */
function placeOf(
  path: readonly PropertyKey[],
  source: RecipeSource,
  overrides: readonly Override[],
): { readonly shown: string; readonly facts: ErrorFacts } {
  const key = path.join(".");
  const override = overrides.findLast(({ path }) => {
    const given = path.join(".");
    return given === key || key.startsWith(`${given}.`) || given.startsWith(`${key}.`);
  });
  if (override) return { shown: override.origin, facts: { option: override.origin.split(" ")[0] } };
  const line = lineOf(source, path);
  return {
    shown: line === undefined ? source.name : `${source.name}:${line}`,
    facts: { path: source.path, line },
  };
}

export function describeIssue(issue: z.core.$ZodIssue): Problem[] {
  const { path } = issue;
  const code = "setting-invalid";
  const key = path.join(".") || "the recipe";
  const mustBe = (expected: string, found = issue.input): Problem[] => [
    {
      code,
      path,
      message: `${key} must be ${expected}, found ${show(found)}`,
      facts: { expected, found: fact(found) },
    },
  ];
  switch (issue.code) {
    case "unrecognized_keys":
      return issue.keys.map((unknown) => unknownKey(path, unknown, issue.input));
    case "invalid_type":
      return mustBe(KINDS[issue.expected] ?? `a ${issue.expected}`);
    case "too_small":
    case "too_big": {
      const low = issue.code === "too_small";
      const limit = Number(low ? issue.minimum : issue.maximum);
      if (Array.isArray(issue.input)) return mustBe(`a list of ${low ? "at least" : "at most"} ${limit}`);
      if (typeof issue.input === "string")
        return mustBe(low ? "a string that is not empty" : `at most ${limit} characters long`);
      return mustBe(`${issue.inclusive ? (low ? "at least" : "at most") : low ? "more than" : "less than"} ${limit}`);
    }
    case "invalid_value":
      return oneOf(path, issue.values, issue.input);
    case "invalid_union": {
      if (issue.discriminator === undefined) return mustBe("a string or a list of strings");
      // A recipe cannot choose a reward or an estimator that is made in code.
      const options = (allKeys.get(namesOnly(path).join(".")) ?? []).filter((name) => name !== "code");
      const mapping = issue.input as Record<string, unknown> | undefined;
      return oneOf(path, options, mapping?.[issue.discriminator]);
    }
    default: {
      const found = issue.input === undefined ? "" : `, found ${show(issue.input)}`;
      const facts = { expected: issue.message, found: fact(issue.input) };
      return [{ code, path, message: `${key}: ${issue.message}${found}`, facts }];
    }
  }
}

const KINDS: Readonly<Record<string, string>> = {
  int: "a whole number",
  number: "a number",
  string: "a string",
  boolean: "true or false",
  array: "a list",
  object: "a mapping (key: value)",
};

function oneOf(path: readonly PropertyKey[], options: readonly unknown[], found: unknown): Problem[] {
  // A word of three letters is near to too many others: gpu is not a misspelling of cpu.
  const suggestion = typeof found === "string" && found.length > 3 ? nearest(found, options.map(String)) : undefined;
  const remedy = suggestion === undefined ? "" : `; did you mean ${suggestion}?`;
  const expected = options.length === 1 ? String(options[0]) : `one of ${options.join(", ")}`;
  return [
    {
      code: "setting-invalid",
      path,
      message: `${path.join(".")} must be ${expected}, found ${show(found)}${remedy}`,
      facts: { expected: options.map(String), found: fact(found), suggestion },
    },
  ];
}

function unknownKey(parent: readonly PropertyKey[], key: string, siblings: unknown): Problem {
  const path = [...parent, key];
  const full = path.join(".");
  const inside = namesOnly(parent).join(".");
  const prefix = inside === "" ? "" : `${inside}.`;
  const known = [...allKeys.keys()].filter((k) => k.startsWith(prefix) && !k.slice(prefix.length).includes("."));
  if (known.includes(`${prefix}${key}`)) {
    // The key belongs to another member of a union, such as `mean` beside `mode: fixed`.
    const choice = Object.entries(siblings as object).find(([name]) => name === "mode" || name === "name");
    const other = choice?.join(": ");
    return { code: "settings-conflict", path, message: `${full} does not go with ${other}`, facts: { with: other } };
  }
  const elsewhere = [...allKeys.keys()].find((k) => k.endsWith(`.${key}`));
  const near = nearest(
    key,
    known.map((k) => k.slice(prefix.length)),
  );
  const suggestion = near === undefined ? elsewhere : [...parent, near].join(".");
  const remedy = suggestion === undefined ? `known here: ${known.join(", ")}` : `did you mean ${suggestion}?`;
  return {
    code: "setting-unknown",
    path,
    message: `${full} is not a setting; ${remedy}`,
    facts: suggestion === undefined ? { known } : { suggestion },
  };
}

/** Every key of the schema by its full path, with the allowed values of those that are a choice. */
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

/** The names in a path, without the indices of lists. */
function namesOnly(path: readonly PropertyKey[]): string[] {
  return path.filter((key) => typeof key === "string");
}

function show(value: unknown): string {
  if (value === undefined) return "nothing";
  if (typeof value === "number") return String(value);
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/** Lists and mappings as JSON, because facts are flat. */
function fact(value: unknown): ErrorFact | undefined {
  if (value === undefined || value === null) return value;
  return typeof value === "string" || typeof value === "number" || typeof value === "boolean" ? value : show(value);
}
