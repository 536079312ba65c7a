import { randomUUID } from "node:crypto";
import { mkdir, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { asInputError } from "../weights/files.js";

/**
 * Fills a folder under a temporary name beside `path`, then renames it, so that a folder with that name is always
 * complete. One that is there already gives way at the last moment; where `fill` fails, it stays.
 */
export async function writeFolderAtomic(path: string, fill: (folder: string) => Promise<void>): Promise<void> {
  const unfinished = join(dirname(path), `.${basename(path)}.${randomUUID()}.tmp`);
  try {
    await mkdir(unfinished, { recursive: true });
    await fill(unfinished);
    await rm(path, { recursive: true, force: true });
    await rename(unfinished, path);
  } catch (error) {
    await rm(unfinished, { recursive: true, force: true }).catch(() => {});
    throw asInputError(error, path, "write");
  }
}

/** Takes away what `writeFolderAtomic` left in `parent` when its process was killed. */
export async function removeUnfinished(parent: string): Promise<void> {
  const names = await readdir(parent).catch(() => []);
  for (const name of names.filter((entry) => /^\..+\.tmp$/.test(entry))) {
    await rm(join(parent, name), { recursive: true, force: true });
  }
}
