import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** The folder of this package, above both `src/` and the compiled `dist/`: it holds `models/` and `recipes/`. */
export const packageFolder = folderWith("package.json", dirname(fileURLToPath(import.meta.url)));

export function packageVersion(): string {
  const { version } = JSON.parse(readFileSync(join(packageFolder, "package.json"), "utf8")) as { version: string };
  return version;
}

const MODELS = "models";

/** A path as the user wrote it: from the working folder or, for what this package ships, from the package's own. */
export function locate(path: string): string {
  const local = resolve(path);
  const shipped = join(packageFolder, path);
  return !existsSync(local) && existsSync(shipped) ? shipped : local;
}

/** The models that this package ships, as `locate` finds them. */
export function shippedModels(): string[] {
  const entries = readdirSync(join(packageFolder, MODELS));
  const isModel = (name: string) => existsSync(join(packageFolder, MODELS, name, "model_index.json"));
  return entries.flatMap((name) => (isModel(name) ? [`${MODELS}/${name}`] : []));
}

function folderWith(file: string, start: string): string {
  for (let folder = start; ; folder = dirname(folder)) {
    if (existsSync(join(folder, file))) return folder;
    if (dirname(folder) === folder) return start;
  }
}
