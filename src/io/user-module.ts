/**
 * Loads a JavaScript module of the user: a reward or an estimator of their own. The module runs with all rights of this
 * process, so only files that the user names are loaded.
 */
import { stat } from "node:fs/promises";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { InputError } from "../errors/index.js";

/** File names that Node.js can import. TypeScript has to be compiled first. */
export const MODULE_FILE = /\.(js|mjs)$/;

export interface UserModule {
  readonly kind: "reward" | "estimator";
  /** Path of the file; relative paths start at the working directory. */
  readonly file: string;
}

/**
 * Imports the default export of a module. If it is a function, `call` calls it, and the result is awaited.
 *
 * @throws InputError `file-not-found`, or `reward-invalid` or `estimator-invalid` if the import or the call fails. An
 * InputError that the module itself throws is passed on.
 */
export async function loadUserModule(module: UserModule, call: (exported: unknown) => unknown): Promise<unknown> {
  const { kind, file } = module;
  const path = resolve(file);
  if ((await stat(path).catch(() => undefined))?.isFile() !== true) {
    throw new InputError("file-not-found", `${kind} ${file}: no such file.`, { path: file });
  }
  const { default: exported }: { default?: unknown } = await import(pathToFileURL(path).href).catch((error) => {
    throw userModuleError(module, "the module cannot be imported", error);
  });
  if (typeof exported !== "function") return exported;
  return await Promise.resolve()
    .then(() => call(exported))
    .catch((error) => {
      throw userModuleError(module, "its function failed", error);
    });
}

/** The InputError for code of the module that threw `error`. An InputError is returned as it is. */
export function userModuleError({ kind, file }: UserModule, problem: string, error: unknown): InputError {
  if (error instanceof InputError) return error;
  const reason = error instanceof Error ? error.message : String(error);
  const message = `${kind} ${file}: ${problem}: ${reason}`;
  return new InputError(`${kind}-invalid`, message, { path: file, problem, reason }, { cause: error });
}
