import { randomUUID } from "node:crypto";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { asInputError } from "./files.js";

/**
 * Writes a file so that nobody ever sees half of it: to a temporary name in the same folder (a rename works within one
 * file system only), through to the disk, then renamed over `path`. Where anything fails, what was there stays.
 */
export async function writeFileAtomic(
  path: string,
  content: string | Uint8Array | Iterable<Uint8Array>,
): Promise<void> {
  const chunks = typeof content === "string" || content instanceof Uint8Array ? [content] : content;
  const temporary = join(dirname(path), `.${basename(path)}.${randomUUID()}.tmp`);
  try {
    const file = await open(temporary, "wx");
    try {
      for (const chunk of chunks) await file.writeFile(chunk);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {});
    throw asInputError(error, path, "write");
  }
  await syncFolder(dirname(path));
}

/** Makes a rename survive a power cut. Windows cannot open folders, and some file systems cannot sync them. */
async function syncFolder(path: string): Promise<void> {
  let folder: FileHandle | undefined;
  try {
    folder = await open(path, "r");
    await folder.sync();
  } catch {
    // The file itself is safe; only the moment at which its name lasts is left to the system.
  } finally {
    await folder?.close();
  }
}
