/** Opens the run that `alignprop train` names: a new one, or one to resume. */
import type { Cluster } from "../cluster/index.js";
import { loadSettings } from "../config/index.js";
import { InputError } from "../errors/index.js";
import { RunFolder } from "../runs/run-folder.js";
import { withStart } from "../runs/start.js";
import { overridesOf, type SettingsOptions } from "./options.js";

export interface RunOptions extends SettingsOptions {
  resume?: string;
}

interface RunContext {
  readonly cluster: Pick<Cluster, "rank" | "size">;
  readonly warn: (message: string) => void;
}

/** @throws InputError `usage` if `--resume` is given with a recipe, `--out` or `--adapter`; and as settings and run folders do */
export async function openRun(
  recipe: string | undefined,
  options: RunOptions,
  { cluster: { rank, size }, warn }: RunContext,
): Promise<RunFolder> {
  const overrides = overridesOf(options);
  const { resume, out, adapter } = options;
  if (resume === undefined) {
    const settings = await withStart(await loadSettings({ recipe, overrides, devices: size, warn }));
    return rank === 0 ? RunFolder.plan(settings) : RunFolder.elsewhere(settings);
  }
  const conflicts = [
    ...(recipe === undefined ? [] : [`the recipe ${recipe}`]),
    ...(out === undefined ? [] : ["--out"]),
    ...(adapter === undefined ? [] : ["--adapter"]),
  ];
  if (conflicts.length > 0) {
    throw new InputError(
      "usage",
      `--resume ${resume}: a run continues in its own folder with its own recipe. Leave out ${conflicts.join(" and ")}.`,
      { option: "--resume", path: resume, conflicts: conflicts.map((one) => (one.startsWith("--") ? one : "recipe")) },
    );
  }
  return RunFolder.resume(resume, overrides, warn);
}
