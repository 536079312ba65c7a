/** Finds recipes and reads them as YAML. */
import { readdir, stat } from "node:fs/promises";
import { join, relative } from "node:path";
import * as yaml from "yaml";
import { type ErrorCode, type ErrorFacts, InputError, nearest } from "../errors/index.js";
import { readText } from "../io/files.js";
import { locate, packageFolder } from "../io/package.js";
import { look } from "../weights/look/look.js";
import { isPythonConfig, refusePython } from "./foreign.js";

/** Settings as YAML, before they are checked. */
export interface RecipeSource {
  /** Shown in messages: a path, or a word for settings that were written in code. */
  readonly name: string;
  /** The path of the file; undefined if the settings were written in code. */
  readonly path?: string;
  readonly document: yaml.Document;
  readonly lines: yaml.LineCounter;
}

/** The names of the recipes in this package. */
export async function recipeNames(): Promise<string[]> {
  const files = await readdir(join(packageFolder, "recipes"));
  return files.filter((file) => file.endsWith(".yaml")).map((file) => file.slice(0, -".yaml".length));
}

/**
 * The file of a recipe. A name with a slash or the extension `.yaml` is a path; any other is a recipe of this package.
 *
 * @throws InputError `recipe-not-found`
 */
export async function findRecipe(recipe: string): Promise<string> {
  if (/[/\\]|\.ya?ml$/.test(recipe)) {
    const path = locate(recipe);
    const info = await stat(path).catch(() => undefined);
    if (info?.isFile()) return path;
    if (info === undefined) {
      throw new InputError("recipe-not-found", `${recipe}: no such recipe file`, { path, recipe });
    }
    const { what, kind } = await look(path);
    const remedy =
      kind === "run" ? `Give ${join(recipe, "config.yaml")}, or continue the run with --resume ${recipe}.` : "";
    throw new InputError("recipe-not-found", `${recipe}: is ${what}, but a recipe is a YAML file. ${remedy}`.trim(), {
      path,
      recipe,
      found: kind,
    });
  }
  const names = (await recipeNames()).sort();
  if (names.includes(recipe)) return join(packageFolder, "recipes", `${recipe}.yaml`);
  const asFile = await stat(recipe).catch(() => undefined);
  if (asFile?.isFile()) await requireRecipe(recipe, recipe);
  const suggestion = nearest(recipe, names);
  const remedy = suggestion === undefined ? "" : `; did you mean ${suggestion}?`;
  throw new InputError(
    "recipe-not-found",
    `unknown recipe "${recipe}"${remedy} (recipes: ${names.join(", ")}, or a .yaml file)`,
    { recipe, suggestion, known: names },
  );
}

/** Recipes are short, but the `config.yaml` of a run contains all its prompts, up to two files of them (`prompts.ts`). */
const MAX_RECIPE_BYTES = 16 << 20;

/** @throws InputError `recipe-malformed` if the file is not YAML, and the errors of `readText` */
export async function readRecipe(path: string): Promise<RecipeSource> {
  const name = shownPath(path);
  const lines = new yaml.LineCounter();
  await requireRecipe(path, name);
  const text = await readText(path, MAX_RECIPE_BYTES);
  if (isPythonConfig(text)) refusePython({ name, path });
  return { name, path, document: parseYaml(text, { name, code: "recipe-malformed", facts: { path } }, lines), lines };
}

/** @throws InputError `recipe-malformed` if the file is of another kind, which its content shows */
async function requireRecipe(path: string, name: string): Promise<void> {
  const { kind, what, advice, command } = await look(path);
  if (["recipe", "text", "empty", "unknown"].includes(kind)) return;
  throw new InputError("recipe-malformed", `${name}: is ${what}, not a recipe. ${advice}`, {
    path,
    found: kind,
    ...(command && { suggestion: command.join(" ") }),
  });
}

/** The line of the key at `path` or, if the recipe does not contain it, of the nearest key above it. */
export function lineOf({ document, lines }: RecipeSource, path: readonly PropertyKey[]): number | undefined {
  for (let length = path.length; length > 0; length--) {
    const parent = length === 1 ? document.contents : document.getIn(path.slice(0, length - 1), true);
    const pair = yaml.isMap(parent)
      ? parent.items.find(({ key }) => yaml.isScalar(key) && key.value === path[length - 1])
      : undefined;
    const start = yaml.isScalar(pair?.key) ? pair.key.range?.[0] : undefined;
    if (start !== undefined) return lines.linePos(start).line;
  }
  return undefined;
}

/** Where YAML text comes from, and the error if it is malformed. */
export interface YamlOrigin {
  /** Shown in messages. */
  readonly name: string;
  readonly code: ErrorCode;
  readonly facts: ErrorFacts;
}

/** No setting is nested this deeply. The parser recurses, so a file of a million brackets would exhaust the memory. */
const MAX_NESTING = 64;

/** Parses YAML without aliases. */
export function parseYaml(text: string, origin: YamlOrigin, lineCounter?: yaml.LineCounter): yaml.Document {
  const { name, code, facts } = origin;
  requireShallow(text, origin);
  let document: yaml.Document;
  try {
    document = yaml.parseDocument(text, { lineCounter, prettyErrors: true, logLevel: "error" });
    // With aliases, a few lines can expand to gigabytes. No recipe needs one.
    yaml.visit(document, {
      Alias: (_, alias) => {
        document.errors.push(
          new yaml.YAMLParseError([0, 0], "BAD_ALIAS", `aliases (*${alias.source}) are not allowed`),
        );
      },
    });
  } catch (error) {
    throw new InputError(code, `${name}: not valid YAML: ${String(error)}`, { ...facts, reason: String(error) });
  }
  const problem = document.errors[0];
  if (problem === undefined) return document;
  const reason = problem.message.trim();
  const line = problem.linePos?.[0].line;
  throw new InputError(code, `${name}: not valid YAML: ${reason}`, { ...facts, line, reason });
}

/** Checks the tokens only: open brackets, and compact collections (`- - -`) on one line. */
function requireShallow(text: string, { name, code, facts }: YamlOrigin): void {
  let [brackets, compact] = [0, 0];
  for (const token of new yaml.Lexer().lex(text)) {
    if (token === "[" || token === "{") brackets++;
    else if (token === "]" || token === "}") brackets--;
    else if (token === "-" || token === "?") compact++;
    else if (token.endsWith("\n")) compact = 0;
    if (brackets > MAX_NESTING || compact > MAX_NESTING) {
      throw new InputError(code, `${name}: lists are nested more than ${MAX_NESTING} deep. Is this a recipe?`, {
        ...facts,
        limit: MAX_NESTING,
      });
    }
  }
}

function shownPath(path: string): string {
  const fromHere = relative(process.cwd(), path);
  return fromHere.startsWith("..") ? path : fromHere;
}
