/** Finds the file of an adapter in a folder. */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { InputError } from "../errors/index.js";
import { PEFT_FILE } from "./lora-files.js";
import { adapterKey } from "./lora-names.js";
import { openWeightFile } from "./weight-file.js";

/** The files that PEFT's own `save_pretrained` writes. */
export const PEFT_WEIGHTS: readonly string[] = ["adapter_model.safetensors", "adapter_model.bin"];
export const PEFT_CONFIG = "adapter_config.json";

/** The files that diffusers writes. AlignProp's and older diffusers' checkpoints have `.bin`. */
export const DIFFUSERS_WEIGHTS: readonly string[] = [PEFT_FILE, PEFT_FILE.replace(/safetensors$/, "bin")];

/** The names that PEFT and diffusers look for, in this order. */
const NAMES = [...PEFT_WEIGHTS, ...DIFFUSERS_WEIGHTS];
const ENDINGS = /\.(safetensors|bin|pt|pth|ckpt)$/;

/**
 * The path itself, or the file of the adapter if it is a folder: the one that PEFT or diffusers would load, or the only
 * adapter in it.
 *
 * @throws InputError `file-not-found` if the folder has no adapter, `adapter-unsupported` if it has several
 */
export async function adapterFile(path: string): Promise<string> {
  const info = await stat(path).catch(() => undefined);
  if (!info?.isDirectory()) return path;
  const name = await adapterAmong(await readdir(path), (candidate) => isAdapter(join(path, candidate)));
  if (typeof name === "string") return join(path, name);
  if (name.length > 0) {
    throw new InputError(
      "adapter-unsupported",
      `${path}: holds several adapters: ${name.join(", ")}. Give the path of one of them.`,
      { path, found: name },
    );
  }
  throw new InputError(
    "file-not-found",
    `${path}: has no adapter. Expected ${NAMES.join(", ")} or another file with the tensors of a LoRA.`,
    { path, expected: NAMES },
  );
}

/** The name of the adapter's file; otherwise the names of all files that may be it. */
export async function adapterAmong(
  names: readonly string[],
  isAdapter: (name: string) => Promise<boolean> | boolean,
): Promise<string | string[]> {
  const usual = NAMES.find((name) => names.includes(name));
  if (usual !== undefined) return usual;
  const found: string[] = [];
  for (const name of names.filter((name) => ENDINGS.test(name)).sort()) if (await isAdapter(name)) found.push(name);
  return found.length === 1 ? (found[0] as string) : found;
}

/** Whether a file has the tensors of an adapter, of whatever kind. A damaged file is not one. */
async function isAdapter(path: string): Promise<boolean> {
  try {
    const file = await openWeightFile(path);
    for (const key of file.names()) if (adapterKey(key, path)) return true;
    return false;
  } catch (error) {
    if (error instanceof InputError) return error.code === "adapter-unsupported";
    throw error;
  }
}
