/** Which files a user means by pictures. */
import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { z } from "zod";
import { InputError } from "../../errors/index.js";
import { asInputError, exists } from "../../io/files.js";
import { readJson } from "../../io/json.js";
import { runFiles } from "./layout.js";

export interface ImageFile {
  readonly file: string;
  /** From the index.json beside it. */
  readonly prompt?: string;
}

const PICTURE = /\.(png|jpe?g|webp|avif|gif|tiff?)$/i;
const MOST_FILES = 100_000;

const index = z.array(z.looseObject({ file: z.string(), prompt: z.string() }));

/** Files as they are, and of each folder the pictures that lie right in it, by name. */
export async function findImages(paths: readonly string[]): Promise<ImageFile[]> {
  const found: ImageFile[] = [];
  const indexes = new Map<string, Map<string, string>>();
  for (const path of paths) {
    const info = await stat(path).catch((error) => {
      throw asInputError(error, path, "read");
    });
    const inFolder = info.isDirectory()
      ? (await readdir(path)).filter((name) => PICTURE.test(name)).sort()
      : [basename(path)];
    const folder = info.isDirectory() ? path : dirname(path);
    if (inFolder.length === 0)
      throw new InputError("output-unwritable", `${path}: holds no pictures (png, jpg, webp, avif, gif, tiff)`);
    if (found.length + inFolder.length > MOST_FILES)
      throw new InputError("output-unwritable", `more than ${MOST_FILES} pictures`);
    const prompts = indexes.get(folder) ?? (await promptsIn(folder));
    indexes.set(folder, prompts);
    for (const name of inFolder) {
      const prompt = prompts.get(name);
      found.push({ file: info.isDirectory() ? join(path, name) : path, ...(prompt !== undefined && { prompt }) });
    }
  }
  return found;
}

async function promptsIn(folder: string): Promise<Map<string, string>> {
  const path = join(folder, runFiles.sampleIndex);
  if (!(await exists(path))) return new Map();
  return new Map((await readJson(path, index, 1 << 26)).map(({ file, prompt }) => [file, prompt]));
}
