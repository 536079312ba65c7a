/** Settings from the command line, which replace those of a recipe. */
import { InputError } from "../errors/index.js";
import { withName } from "../estimators/index.js";
import { isRecord } from "../io/record.js";
import { rewardMapping } from "../rewards/index.js";
import { parseYaml } from "./recipe.js";
import { newPath, type Renaming, withNewNames } from "./renamed.js";

/** A setting from outside the recipe. */
export interface Override {
  readonly path: readonly string[];
  readonly value: unknown;
  /** The option as the user typed it, for messages. */
  readonly origin: string;
  /** Append the value to the list at `path`, unless the list has an entry of that name already. */
  readonly adds?: true;
}

/**
 * Parses the argument of `--set`, such as `optimizer.learning_rate=3e-4`. The value is YAML, so lists, `null` and mappings
 * work.
 *
 * @throws InputError `usage`
 */
export function parseSet(argument: string): Override {
  const origin = `--set ${argument}`;
  const equals = argument.indexOf("=");
  const path = argument.slice(0, equals).trim();
  if (equals < 1 || path.split(".").some((key) => key === "")) {
    throw new InputError("usage", `${origin}: expected path.to.key=value, as in --set optimizer.learning_rate=3e-4`, {
      option: "--set",
      found: argument,
      expected: "path.to.key=value",
    });
  }
  const text = argument.slice(equals + 1);
  const value = parseYaml(text, { name: origin, code: "usage", facts: { option: "--set", found: argument } });
  return { path: path.split("."), value: value.toJS({ maxAliasCount: 0 }), origin };
}

/** An override with the new names of its settings, and the renamings that were made. */
export function withNewNamesIn(override: Override): {
  readonly override: Override;
  readonly renamed: readonly Renaming[];
} {
  const path = newPath(override.path);
  if (path !== override.path) {
    return { override: { ...override, path }, renamed: [{ from: override.path.join("."), to: path.join(".") }] };
  }
  const [section] = path;
  if (path.length !== 1 || section === undefined) return { override, renamed: [] };
  const { value, renamed } = withNewNames({ [section]: override.value }, { name: override.origin });
  return { override: { ...override, value: value[section] }, renamed };
}

/**
 * Settings that decide which other settings are allowed beside them. A new choice on the command line removes the recipe's
 * choice and the settings that belong to it, so that `--set estimator.truncation.mode=fixed` works with any recipe.
 */
const CHOICES = [
  "reward.name",
  "reward",
  "evaluation.held_out.name",
  "estimator.name",
  "estimator",
  "estimator.truncation.mode",
  "train.steps",
  "train.epochs",
];

/** The settings of a recipe with overrides. Choices come first, so that the order of the options does not matter. */
export function applyOverrides(
  written: Readonly<Record<string, unknown>>,
  overrides: readonly Override[],
): Record<string, unknown> {
  const isChoice = ({ path }: Override) => CHOICES.includes(path.join("."));
  // An estimator without a name has the default one, so that choosing the default changes nothing.
  let settings: Record<string, unknown> =
    "estimator" in written ? { ...written, estimator: withName(written.estimator) } : { ...written };
  for (const override of overrides.filter(isChoice))
    settings = withValue(settings, override.path, override.value, { alone: override.path.length > 1 });
  for (const override of overrides.filter((o) => !isChoice(o) && !o.adds))
    settings = withValue(settings, override.path, override.value);
  for (const { path, value } of overrides.filter(({ adds }) => adds)) {
    const [key] = path as [string];
    const list = Array.isArray(settings[key]) ? settings[key] : [];
    const isListed = list.some((entry) => entry === value || (isRecord(entry) && entry.name === value));
    if (!isListed) settings = { ...settings, [key]: [...list, value] };
  }
  return settings;
}

/** A section that is written as a name, or a reward that is written as a file, as a mapping. */
function fromShortForm(key: string, text: string): Record<string, unknown> {
  const mapping = key === "reward" || key === "held_out" ? rewardMapping(text) : undefined;
  return isRecord(mapping) ? mapping : { name: text };
}

/** A copy of the mapping with a value at a path. `alone`: if the value changes, remove the keys beside it. */
function withValue(
  mapping: Readonly<Record<string, unknown>>,
  [key, ...rest]: readonly string[],
  value: unknown,
  { alone = false } = {},
): Record<string, unknown> {
  if (key === undefined) return { ...mapping };
  if (rest.length === 0) return alone && mapping[key] !== value ? { [key]: value } : { ...mapping, [key]: value };
  const child = Object.hasOwn(mapping, key) ? mapping[key] : undefined;
  const inner = isRecord(child) ? child : typeof child === "string" ? fromShortForm(key, child) : {};
  return { ...mapping, [key]: withValue(inner, rest, value, { alone }) };
}
