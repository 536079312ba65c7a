/** Loads the settings of a run: reads a recipe, applies the overrides of the command line, and checks the result. */
import { basename } from "node:path";
import * as yaml from "yaml";
import { InputError } from "../errors/index.js";
import { isRecord } from "../io/record.js";
import { stepsPerEpoch } from "./batch.js";
import { conflicts } from "./conflicts.js";
import { refuseForeign } from "./foreign.js";
import { applyOverrides, type Override, withNewNamesIn } from "./overrides.js";
import { describeIssue, type Problem, problemsError } from "./problems.js";
import { resolvePrompts } from "./prompts.js";
import { findRecipe, type RecipeSource, readRecipe } from "./recipe.js";
import { renamingWarning, withNewNames } from "./renamed.js";
import { resolvedLoss, type Settings, type SettingsInput, settingsSchema } from "./settings.js";

export interface LoadOptions {
  /** The name of a recipe in `recipes/`, or the path of a YAML file; default `default`. */
  recipe?: string;
  /** Settings that replace those of the recipe. */
  overrides?: readonly Override[];
  /** Number of devices, over all ranks, that share a batch; default 1. */
  devices?: number;
  /**
   * For commands that need no prompts, such as `plan`: called with a message if a prompt file is absent. The list of prompts
   * is then empty. Without it, an absent file is an error.
   */
  absentPrompts?: ((message: string) => void) | undefined;
  /** Called with each warning, such as the use of a setting's old name. */
  warn?: ((message: string) => void) | undefined;
}

/**
 * Loads a recipe. All problems of its settings are reported together, each with its line or option.
 *
 * @throws InputError `recipe-not-found`, `recipe-malformed`, `setting-unknown`, `setting-invalid`, `settings-conflict`, or the
 * errors of a prompt file
 */
export async function loadSettings({
  recipe = "default",
  overrides = [],
  ...options
}: LoadOptions = {}): Promise<Settings> {
  const file = await findRecipe(recipe);
  const name = runName(basename(file).replace(/\.ya?ml$/, ""));
  return await resolveSettings(await readRecipe(file), name, overrides, options);
}

/** The file name of a recipe without the characters that the name of a run cannot contain. */
function runName(file: string): string {
  return (
    file
      .replaceAll(/[^\w.-]+/g, "-")
      .replace(/^[.-]+/, "")
      .slice(0, 100) || "custom"
  );
}

/**
 * Checks and completes settings that were written in code, as if they were a recipe.
 *
 * @throws InputError as `loadSettings` does
 */
export async function settingsFrom(input: SettingsInput, name = "custom"): Promise<Settings> {
  const document = new yaml.Document(input, { aliasDuplicateObjects: false });
  return await resolveSettings({ name: "settings", document, lines: new yaml.LineCounter() }, name, []);
}

/** The length of AlignProp's aesthetic run: 7 epochs of 256 samples in batches of 128, which are 14 steps. */
const DEFAULT_EPOCHS = 7;

async function resolveSettings(
  source: RecipeSource,
  recipeName: string,
  given: readonly Override[],
  { devices = 1, absentPrompts: absent, warn = () => {} }: Omit<LoadOptions, "recipe" | "overrides"> = {},
): Promise<Settings> {
  const document: unknown = source.document.toJS({ maxAliasCount: 0 }) ?? {};
  if (!isRecord(document)) {
    throw new InputError("recipe-malformed", `${source.name}: expected a mapping of settings (key: value)`, {
      path: source.path,
      expected: "a mapping",
    });
  }
  refuseForeign(document, Object.keys(settingsSchema.shape), source);
  const { value: written, renamed } = withNewNames(document, source);
  for (const renaming of renamed) warn(`${source.name}: ${renamingWarning(renaming)}`);
  const overrides = given.map((each) => {
    const { override, renamed } = withNewNamesIn(each);
    for (const renaming of renamed) warn(`${each.origin}: ${renamingWarning(renaming)}`);
    return override;
  });
  const parsed = settingsSchema.safeParse(applyOverrides(written, overrides), { reportInput: true });
  const problems: Problem[] = parsed.success
    ? conflicts(parsed.data, devices)
    : parsed.error.issues.flatMap(describeIssue);
  if (problems.length > 0 || !parsed.success) throw problemsError(problems, source, overrides);

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
