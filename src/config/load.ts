/**
 * From a recipe to settings: find the YAML file, read it, lay the command line's overrides over it, validate. All
 * problems are collected and shown together, each with the place it was written at.
 */

import { readdir, stat } from "node:fs/promises";
import { basename, join, relative } from "node:path";
import * as yaml from "yaml";
import { InputError, nearest } from "../errors/index.js";
import { estimatorProblems, withName } from "../estimators/index.js";
import { readText } from "../io/files.js";
import { locate, packageFolder } from "../io/package.js";
import { isRecord } from "../io/record.js";
import { defaultLoss, rewardTitle } from "../rewards/index.js";
import { accumulationSteps, stepsPerEpoch } from "./batch.js";
import { describeIssue, type Problem } from "./problems.js";
import { resolvePrompts } from "./prompts.js";
import { newPath, renamingWarning, withNewNames } from "./renamed.js";
import { type ParsedSettings, resolvedLoss, type Settings, type SettingsInput, settingsSchema } from "./settings.js";

/** A setting given outside the recipe; `origin` is what the user typed, for messages. */
export interface Override {
  readonly path: readonly string[];
  readonly value: unknown;
  readonly origin: string;
  /** The value is the name of one more entry of a list, unless the list has an entry of that name. */
  readonly adds?: true;
}

export interface LoadOptions {
  /** The name of a recipe in `recipes/`, or the path of a YAML file. */
  recipe?: string;
  overrides?: readonly Override[];
  devices?: number;
  /** For commands that need no prompts, such as a plan: called with the message for a missing prompt file, which is then no error. */
  absentPrompts?: ((message: string) => void) | undefined;
  /** Called with each warning, such as the use of a setting's old name. */
  warn?: ((message: string) => void) | undefined;
}

export async function loadSettings({
  recipe = "default",
  overrides = [],
  ...options
}: LoadOptions = {}): Promise<Settings> {
  const file = await findRecipe(recipe);
  const name = runName(basename(file).replace(/\.ya?ml$/, ""));
  return await resolveSettings(await readYaml(file), name, overrides, options);
}

/** A recipe's file may have any name; the run's is also that of files, and one that `name` in a recipe could have. */
function runName(file: string): string {
  return (
    file
      .replaceAll(/[^\w.-]+/g, "-")
      .replace(/^[.-]+/, "")
      .slice(0, 100) || "custom"
  );
}

/** Settings written in code, judged and completed as a recipe is. */
export async function settingsFrom(input: SettingsInput, name = "custom"): Promise<Settings> {
  const document = new yaml.Document(input, { aliasDuplicateObjects: false });
  return await resolveSettings({ file: "settings", document, lines: new yaml.LineCounter() }, name, []);
}

/** `--set optimizer.learning_rate=3e-4`; the value is YAML, so lists, `null` and mappings work. */
export function parseSet(argument: string): Override {
  const origin = `--set ${argument}`;
  const equals = argument.indexOf("=");
  const path = argument.slice(0, equals).trim();
  if (equals < 1 || path.split(".").some((key) => key === "")) {
    throw new InputError(
      "setting-invalid",
      `${origin}: expected path.to.key=value, as in --set optimizer.learning_rate=3e-4`,
    );
  }
  const text = argument.slice(equals + 1);
  return { path: path.split("."), value: parseYaml(text, origin).toJS({ maxAliasCount: 0 }), origin };
}

/** The names of the recipes that this package ships. */
export async function recipeNames(): Promise<string[]> {
  const files = await readdir(join(packageFolder, "recipes"));
  return files.filter((file) => file.endsWith(".yaml")).map((file) => file.slice(0, -".yaml".length));
}

async function findRecipe(recipe: string): Promise<string> {
  if (/[/\\]|\.ya?ml$/.test(recipe)) {
    const file = locate(recipe);
    const info = await stat(file).catch(() => undefined);
    if (info?.isFile()) return file;
    throw new InputError("setting-invalid", `${recipe}: ${info === undefined ? "no such recipe file" : "not a file"}`);
  }
  const names = await recipeNames();
  if (names.includes(recipe)) return join(packageFolder, "recipes", `${recipe}.yaml`);
  const suggestion = nearest(recipe, names);
  const remedy = suggestion === undefined ? "" : `; did you mean ${suggestion}?`;
  throw new InputError(
    "setting-invalid",
    `unknown recipe "${recipe}"${remedy} (recipes: ${names.sort().join(", ")}, or a .yaml file)`,
  );
}

interface RecipeSource {
  /** As shown in messages. */
  readonly file: string;
  readonly document: yaml.Document;
  readonly lines: yaml.LineCounter;
}

/** Recipes are short, but a run's `config.yaml` holds all its prompts, which may be two files of them (`prompts.ts`). */
const maxRecipeBytes = 16 << 20;

/** Far deeper than any setting; the parser recurses, and a file of a million brackets would exhaust the memory. */
const maxNesting = 64;

async function readYaml(path: string): Promise<RecipeSource> {
  const file = shownPath(path);
  const lines = new yaml.LineCounter();
  return { file, document: parseYaml(await readText(path, maxRecipeBytes), file, lines), lines };
}

function parseYaml(text: string, where: string, lineCounter?: yaml.LineCounter): yaml.Document {
  requireShallow(text, where);
  let document: yaml.Document;
  try {
    document = yaml.parseDocument(text, { lineCounter, prettyErrors: true, logLevel: "error" });
    // Aliases let a few lines stand for gigabytes; no recipe needs one.
    yaml.visit(document, {
      Alias: (_, alias) => {
        document.errors.push(
          new yaml.YAMLParseError([0, 0], "BAD_ALIAS", `aliases (*${alias.source}) are not allowed`),
        );
      },
    });
  } catch (error) {
    throw new InputError("setting-invalid", `${where}: not readable as YAML: ${String(error)}`);
  }
  const problem = document.errors[0];
  if (problem !== undefined)
    throw new InputError("setting-invalid", `${where}: not valid YAML: ${problem.message.trim()}`);
  return document;
}

/** Looks at the tokens alone: open brackets, and compact collections (`- - -`) on one line. */
function requireShallow(text: string, where: string): void {
  let [brackets, compact] = [0, 0];
  for (const token of new yaml.Lexer().lex(text)) {
    if (token === "[" || token === "{") brackets++;
    else if (token === "]" || token === "}") brackets--;
    else if (token === "-" || token === "?") compact++;
    else if (token.endsWith("\n")) compact = 0;
    if (brackets > maxNesting || compact > maxNesting) {
      throw new InputError(
        "setting-invalid",
        `${where}: lists within lists, more than ${maxNesting} deep. Is this a recipe?`,
      );
    }
  }
}

/** AlignProp's aesthetic run: 7 epochs of 256 samples in batches of 128, 14 steps. */
const DEFAULT_EPOCHS = 7;

async function resolveSettings(
  source: RecipeSource,
  recipeName: string,
  given: readonly Override[],
  { devices = 1, absentPrompts: absent, warn = () => {} }: Omit<LoadOptions, "recipe" | "overrides"> = {},
): Promise<Settings> {
  const document: unknown = source.document.toJS({ maxAliasCount: 0 }) ?? {};
  if (!isRecord(document)) {
    throw new InputError("recipe-malformed", `${source.file}: expected a mapping of settings (key: value)`, {
      path: source.file,
    });
  }
  const { value: written, renamed } = withNewNames(document);
  for (const renaming of renamed) warn(`${source.file}: ${renamingWarning(renaming)}`);
  const overrides = given.map((override) => ({ ...override, path: newPath(override.path) }));
  for (const { path, origin } of given) {
    const [from, to] = [path.join("."), newPath(path).join(".")];
    if (from !== to) warn(`${origin}: ${renamingWarning({ from, to })}`);
  }
  const parsed = settingsSchema.safeParse(applyOverrides(written, overrides), { reportInput: true });
  const problems: Problem[] = parsed.success
    ? relations(parsed.data, devices)
    : parsed.error.issues.flatMap(describeIssue);
  if (problems.length > 0 || !parsed.success) {
    const shown = problems.map((problem) => `${placeOf(problem, source, overrides)}: ${problem.message}`);
    throw new InputError(
      "setting-invalid",
      shown.length === 1 ? shown.join() : `${shown.length} settings are wrong:\n  ${shown.join("\n  ")}`,
    );
  }

  const { prompts, train, batch } = parsed.data;
  return {
    ...parsed.data,
    name: parsed.data.name ?? recipeName,
    loss: resolvedLoss(parsed.data),
    prompts: {
      ...prompts,
      train: await resolvePrompts(prompts.train, { setting: "prompts.train", absent }),
      eval: await resolvePrompts(prompts.eval, { setting: "prompts.eval", absent }),
    },
    train: { steps: train.steps ?? (train.epochs ?? DEFAULT_EPOCHS) * stepsPerEpoch(batch) },
  };
}

/**
 * Keys that decide which others may stand beside them: a new choice on the command line sets the recipe's old one and
 * all that belonged to it aside, so that `--set estimator.truncation.mode=fixed` needs no cleaning up after.
 */
const choices = [
  "reward.name",
  "reward",
  "evaluation.held_out.name",
  "estimator.name",
  "estimator",
  "estimator.truncation.mode",
  "train.steps",
  "train.epochs",
];

function applyOverrides(written: Record<string, unknown>, overrides: readonly Override[]): Record<string, unknown> {
  const isChoice = ({ path }: Override) => choices.includes(path.join("."));
  // An estimator that is not named has a name all the same, which a choice of the same one does not change.
  let settings = "estimator" in written ? { ...written, estimator: withName(written.estimator) } : written;
  for (const override of overrides.filter(isChoice))
    settings = withValue(settings, override.path, override.value, override.path.length > 1);
  for (const override of overrides.filter((o) => !isChoice(o) && !o.adds))
    settings = withValue(settings, override.path, override.value);
  for (const { path, value } of overrides.filter(({ adds }) => adds)) {
    const [key] = path as [string];
    const list = Array.isArray(settings[key]) ? settings[key] : [];
    const named = list.some((entry) => entry === value || (isRecord(entry) && entry.name === value));
    if (!named) settings = { ...settings, [key]: [...list, value] };
  }
  return settings;
}

function withValue(
  mapping: Record<string, unknown>,
  [key, ...rest]: readonly string[],
  value: unknown,
  alone = false,
): Record<string, unknown> {
  if (key === undefined) return mapping;
  if (rest.length === 0) return alone && mapping[key] !== value ? { [key]: value } : { ...mapping, [key]: value };
  const child = Object.hasOwn(mapping, key) ? mapping[key] : undefined;
  const inner = isRecord(child) ? child : typeof child === "string" ? { name: child } : {};
  return { ...mapping, [key]: withValue(inner, rest, value, alone) };
}

/** What no single key can show: numbers that must fit each other. */
function relations(settings: ParsedSettings, devices: number): Problem[] {
  const { batch, estimator, sampling, loss, reward } = settings;
  const problems = watchRelations(settings);
  if (loss.form === "target" && loss.target === null && defaultLoss(reward).form !== "target") {
    const message = `loss.target must be given with form: target; the ${rewardTitle(reward)} reward has no usual one`;
    problems.push({ path: ["loss", "form"], message });
  }
  try {
    accumulationSteps(batch, devices);
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    problems.push({ path: ["batch"], message: error.message.replaceAll("\n", "\n    and ") });
  }
  for (const { path, message } of estimatorProblems(estimator, { sampling, batch })) {
    const full = ["estimator", ...path];
    problems.push({ path: full, message: path.length === 0 ? message : `${full.join(".")} ${message}` });
  }
  return problems;
}

/** What is watched must be measured. */
function watchRelations({ evaluation, early_stop: rule }: ParsedSettings): Problem[] {
  const problems: Problem[] = [];
  const say = (path: string, message: string) =>
    problems.push({ path: path.split("."), message: `${path} ${message}` });
  if (evaluation.diversity !== null && evaluation.seeds_per_prompt < 2) {
    say(
      "evaluation.diversity",
      `compares pictures of one prompt, and evaluation.seeds_per_prompt is ${evaluation.seeds_per_prompt}; give at least 2`,
    );
  }
  if (rule?.monitor === "held-out" && evaluation.held_out === null) {
    say(
      "early_stop.monitor",
      "is held-out, but there is no evaluation.held_out; name a reward there, or monitor: reward",
    );
  }
  if (typeof rule?.min_diversity === "number" && evaluation.diversity === null) {
    say("early_stop.min_diversity", "needs evaluation.diversity; name a CLIP there, such as models/rewards/clip");
  }
  return problems;
}

/** `recipes/x.yaml:12`, or the option that set it. */
function placeOf({ path }: Problem, { file, document, lines }: RecipeSource, overrides: readonly Override[]): string {
  const here = path.join(".");
  const typed = overrides.findLast(({ path: set }) => {
    const there = set.join(".");
    return there === here || here.startsWith(`${there}.`) || there.startsWith(`${here}.`);
  });
  if (typed !== undefined) return typed.origin;
  for (let length = path.length; length > 0; length--) {
    const parent = length === 1 ? document.contents : document.getIn(path.slice(0, length - 1), true);
    const pair = yaml.isMap(parent)
      ? parent.items.find(({ key }) => yaml.isScalar(key) && key.value === path[length - 1])
      : undefined;
    const start = yaml.isScalar(pair?.key) ? pair.key.range?.[0] : undefined;
    if (start !== undefined) return `${file}:${lines.linePos(start).line}`;
  }
  return file;
}

function shownPath(path: string): string {
  const fromHere = relative(process.cwd(), path);
  return fromHere.startsWith("..") ? path : fromHere;
}
