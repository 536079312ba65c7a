/** Settings that have a new name. Recipes and `--set` may use the old one. */
import { InputError } from "../errors/index.js";
import { isRecord } from "../io/record.js";

/** Old key → new key; both are full paths within the same section. */
const RENAMED: Readonly<Record<string, string>> = {
  "train.updates": "train.steps",
  "early_stop.watch": "early_stop.monitor",
  "early_stop.least_gain": "early_stop.min_delta",
  "early_stop.least_diversity": "early_stop.min_diversity",
};

export interface Renaming {
  readonly from: string;
  readonly to: string;
}

/**
 * The settings with new names in the place of old ones, and the renamings that were made. `source` is where the settings
 * come from, for messages.
 *
 * @throws InputError `settings-conflict` if a setting is given under both names
 */
export function withNewNames(
  settings: Readonly<Record<string, unknown>>,
  { name, path }: { readonly name?: string; readonly path?: string } = {},
): {
  readonly value: Record<string, unknown>;
  readonly renamed: readonly Renaming[];
} {
  const value: Record<string, unknown> = { ...settings };
  const renamed: Renaming[] = [];
  for (const [from, to] of Object.entries(RENAMED)) {
    const [section, oldKey] = from.split(".") as [string, string];
    const newKey = to.split(".")[1] as string;
    const old = value[section];
    if (!isRecord(old) || !Object.hasOwn(old, oldKey)) continue;
    const { [oldKey]: moved, ...others } = old;
    if (Object.hasOwn(others, newKey)) {
      const place = name === undefined ? "" : `${name}: `;
      throw new InputError(
        "settings-conflict",
        `${place}${from} is the old name of ${to}, and both are given. Keep ${to} only.`,
        { setting: from, with: to, path },
      );
    }
    value[section] = { ...others, [newKey]: moved };
    renamed.push({ from, to });
  }
  return { value, renamed };
}

/** The path of a setting by its new name. */
export function newPath(path: readonly string[]): readonly string[] {
  return RENAMED[path.join(".")]?.split(".") ?? path;
}

export function renamingWarning({ from, to }: Renaming): string {
  return `the setting ${from} is now called ${to}`;
}
