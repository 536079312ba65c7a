import { randomUUID } from "node:crypto";
import { mkdir, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { asInputError } from "./files.js";

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

/**
 * Fills a folder that a person named, one that is empty or not there yet. It may be the working folder, a link or a mount, so
 * it is not replaced: the files come together in a hidden folder inside it and then move up. Where `fill` fails, it is
 * as it was.
 */
export async function fillFolder(path: string, fill: (folder: string) => Promise<void>): Promise<void> {
  let made: string | undefined;
  try {
    made = await mkdir(path, { recursive: true });
    const unfinished = join(path, `.${randomUUID()}.tmp`);
    try {
      await mkdir(unfinished);
      await fill(unfinished);
      for (const name of await readdir(unfinished)) await rename(join(unfinished, name), join(path, name));
    } finally {
      await rm(unfinished, { recursive: true, force: true });
    }
  } catch (error) {
    if (made !== undefined) await rm(made, { recursive: true, force: true }).catch(() => {});
    throw asInputError(error, path, "write");
  }
}

/** Takes away what atomic writing left in `parent` when its process was killed. */
export async function removeUnfinished(parent: string): Promise<void> {
  const names = await readdir(parent).catch(() => []);
  for (const name of names.filter((entry) => /^\..+\.tmp$/.test(entry))) {
    await rm(join(parent, name), { recursive: true, force: true });
  }
}
