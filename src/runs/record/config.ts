/** `config.yaml`: the resolved settings of a run. */
import { stringify } from "yaml";
import type { Settings } from "../../config/index.js";

export function configText(settings: Settings): string {
  const body = stringify(settings, { lineWidth: 0, aliasDuplicateObjects: false });
  return `# The resolved settings of this run. To repeat the run, use this file as the recipe, with another --out.\n${body}`;
}

/** Every setting that is not a mapping: dotted path → JSON. */
export function leaves(settings: object, prefix = ""): Map<string, string> {
  const found = new Map<string, string>();
  for (const [key, value] of Object.entries(settings)) {
    if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      for (const [inner, leaf] of leaves(value, `${prefix}${key}.`)) found.set(inner, leaf);
    } else found.set(prefix + key, JSON.stringify(value));
  }
  return found;
}
