/** The files that this package ships: its folder, its version, and the models and recipes in it. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** The folder of this package. It holds `models/` and `recipes/`, and is above both `src/` and the compiled `dist/`. */
export const packageFolder = folderWith("package.json", dirname(fileURLToPath(import.meta.url)));

export function packageVersion(): string {
  const { version } = JSON.parse(readFileSync(join(packageFolder, "package.json"), "utf8")) as { version: string };
  return version;
}

const MODELS = "models";

/** Resolves a path that the user wrote: relative to the working folder or, if it exists only there, to the package. */
export function locate(path: string): string {
  const local = resolve(path);
  const shipped = join(packageFolder, path);
  return !existsSync(local) && existsSync(shipped) ? shipped : local;
}

/** Paths of the models that this package ships, such as `models/emoji-64`; `locate` resolves them. */
export function shippedModels(): string[] {
  const entries = readdirSync(join(packageFolder, MODELS));
  const isModel = (name: string) => existsSync(join(packageFolder, MODELS, name, "model_index.json"));
  return entries.flatMap((name) => (isModel(name) ? [`${MODELS}/${name}`] : []));
}

/** The nearest folder at or above `start` that holds `file`; `start` itself if there is none. */
function folderWith(file: string, start: string): string {
  for (let folder = start; ; folder = dirname(folder)) {
    if (existsSync(join(folder, file))) return folder;
    if (dirname(folder) === folder) return start;
  }
}
