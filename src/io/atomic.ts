/** Writes single files atomically. */
import { randomUUID } from "node:crypto";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { asInputError } from "./files.js";

/**
 * Writes a file atomically: readers see the old content or the whole new content. The data goes to a temporary file in
 * the same folder (a rename is atomic only within one file system), is flushed to disk, and then replaces `path`. On
 * failure the old file stays.
 *
 * @throws InputError `output-unwritable` if the file system refuses.
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
    // The file's data is on disk. The system writes the folder's entry when it chooses.
  } finally {
    await folder?.close();
  }
}
