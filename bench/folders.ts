/** The folders of generated models. They are made when a case first needs them, and kept. */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readdir, rename, rm } from "node:fs/promises";
import path from "node:path";
import { script } from "./scripts.js";

/** Arguments of `full-size.ts` by the name of the folder. */
const GENERATED = {
  "sd15-float32": ["--family", "sd15", "--float32"],
  "sd15-float16": ["--family", "sd15"],
  "sdxl-float16": ["--family", "sdxl"],
  "vit-l-14": ["--family", "vit-l-14", "--float32"],
  "vit-h-14": ["--family", "vit-h-14"],
} as const;

export type GeneratedModel = keyof typeof GENERATED;

/** Makes the folder of a model if it is not there. An interrupted attempt leaves no folder of that name. */
export async function ensureModel(folder: string, name: GeneratedModel): Promise<void> {
  const target = path.join(folder, name);
  if (existsSync(target)) return;
  console.log(`writing ${target}`);
  await mkdir(folder, { recursive: true });
  const unfinished = `${target}.unfinished`;
  await rm(unfinished, { recursive: true, force: true });
  const child = spawn(process.execPath, [script("full-size.js"), "--out", unfinished, ...GENERATED[name]], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  if (code !== 0) throw new Error(`full-size.js could not write ${target}: exit code ${code}`);
  await rename(unfinished, target);
}

/** All files of weights in a folder. */
export async function weightFiles(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile() && entry.name.endsWith(".safetensors"))
    .map((entry) => path.join(entry.parentPath, entry.name));
}
