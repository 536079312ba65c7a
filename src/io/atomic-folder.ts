/** Writes whole folders so that an interrupted write leaves no incomplete folder behind. */
import { randomUUID } from "node:crypto";
import { mkdir, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { asInputError } from "./files.js";

/**
 * Writes a folder: `fill` writes into a temporary folder beside `path`, which is then renamed to `path`. A folder
 * called `path` is therefore always complete. An existing folder is deleted just before the rename; if `fill` fails, it
 * stays.
 *
 * @throws InputError `output-unwritable` if the file system refuses.
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
 * Fills a folder that the user named and that is empty or does not exist. The folder may be the working folder, a link
 * or a mount point, so it is never replaced: `fill` writes into a hidden folder inside it, and the files then move up.
 * If `fill` fails, the folder is as it was before.
 *
 * @throws InputError `output-unwritable` if the file system refuses.
 */
export async function fillFolder(path: string, fill: (folder: string) => Promise<void>): Promise<void> {
  let created: string | undefined;
  try {
    created = await mkdir(path, { recursive: true });
    const unfinished = join(path, `.${randomUUID()}.tmp`);
    try {
      await mkdir(unfinished);
      await fill(unfinished);
      for (const name of await readdir(unfinished)) await rename(join(unfinished, name), join(path, name));
    } finally {
      await rm(unfinished, { recursive: true, force: true });
    }
  } catch (error) {
    if (created !== undefined) await rm(created, { recursive: true, force: true }).catch(() => {});
    throw asInputError(error, path, "write");
  }
}

/** Deletes temporary files and folders that a killed process left in `parent`. */
export async function removeUnfinished(parent: string): Promise<void> {
  const names = await readdir(parent).catch(() => []);
  for (const name of names.filter((entry) => /^\..+\.tmp$/.test(entry))) {
    await rm(join(parent, name), { recursive: true, force: true });
  }
}
