/** `config.yaml`: a run's settings resolved in full, and whether a run may go on with others. */
import { stringify } from "yaml";
import { InputError } from "../tensor/errors.js";
import type { Settings } from "../train/settings.js";

export function configText(settings: Settings): string {
  const body = stringify(settings, { lineWidth: 0, aliasDuplicateObjects: false });
  return `# The settings of this run, resolved in full. As a recipe, with another --out, it repeats the run.\n${body}`;
}

/** What a run may change when it goes on: how long, how often and on what, but not what is learnt. */
const mayChange = ["train", "checkpoint", "evaluation.every", "device", "threads", "out"];

export function requireSameRun(saved: Settings, wanted: Settings): void {
  const before = leaves(saved);
  const changed = [...leaves(wanted)].filter(([key, value]) => before.get(key) !== value && !isFree(key));
  if (changed.length === 0) return;
  const list = changed.map(([key, value]) => `${key} (${before.get(key) ?? "not set"} → ${value})`).join(", ");
  throw new InputError(
    `--resume: a run goes on with its own settings, but these differ: ${list}. ` +
      `Leave them out, or start a new run; only ${mayChange.join(", ")} may change`,
  );
}

function isFree(key: string): boolean {
  return mayChange.some((free) => key === free || key.startsWith(`${free}.`));
}

/** Every setting that is not a mapping, by its dotted path, as JSON. */
export function leaves(settings: object, prefix = ""): Map<string, string> {
  const found = new Map<string, string>();
  for (const [key, value] of Object.entries(settings)) {
    if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      for (const [inner, leaf] of leaves(value, `${prefix}${key}.`)) found.set(inner, leaf);
    } else found.set(prefix + key, JSON.stringify(value));
  }
  return found;
}
