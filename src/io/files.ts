/** Reads files and turns errors of the file system into InputErrors. */
import { type FileHandle, open, stat } from "node:fs/promises";
import { InputError } from "../errors/index.js";

/** Content of a file in one or several arrays. Several together may exceed the size that one array can have. */
export type FileContent = Uint8Array | readonly Uint8Array[];

/**
 * Opens a regular file for reading, calls `use`, and closes the file.
 *
 * @throws InputError `file-not-found` or `file-unreadable`.
 */
export async function withFile<T>(path: string, use: (file: FileHandle, size: number) => Promise<T>): Promise<T> {
  let file: FileHandle;
  try {
    // Check before opening: `open` waits forever on a named pipe.
    const found = await stat(path);
    if (!found.isFile()) {
      const kind = found.isDirectory() ? "folder" : "special file";
      throw new InputError("file-unreadable", `${path}: is a ${kind}. Give the path of a regular file.`, {
        path,
        found: kind,
      });
    }
    file = await open(path, "r");
  } catch (error) {
    throw asInputError(error, path, "read");
  }
  try {
    return await use(file, (await file.stat()).size);
  } finally {
    await file.close();
  }
}

/** One read call returns at most 2 GiB, and less on some systems. */
const MAX_READ = 2 ** 30;

/**
 * Fills `bytes` from `position` on. Call it only for bytes that the file had when it was opened.
 *
 * @throws InputError `file-malformed` if the file ends early.
 */
export async function readFully(file: FileHandle, bytes: Uint8Array, position: number, path: string): Promise<void> {
  let done = 0;
  while (done < bytes.length) {
    const { bytesRead } = await file.read(bytes, done, Math.min(MAX_READ, bytes.length - done), position + done);
    if (bytesRead === 0) {
      const missing = bytes.length - done;
      throw new InputError(
        "file-malformed",
        `${path}: ends ${missing} bytes early, because it became shorter while it was read. Download it again.`,
        { path, missing },
      );
    }
    done += bytesRead;
  }
}

/**
 * The content of a UTF-8 text file, without its byte order mark.
 *
 * @throws InputError `file-too-large` if it has more than `maxBytes` bytes, `file-malformed` if it is not UTF-8.
 */
export function readText(path: string, maxBytes: number): Promise<string> {
  return withFile(path, async (file, size) => {
    if (size > maxBytes) {
      throw new InputError(
        "file-too-large",
        `${path}: has ${size} bytes, but a file of this kind has at most ${maxBytes}. Is it the right file?`,
        { path, found: size, limit: maxBytes },
      );
    }
    const bytes = new Uint8Array(size);
    await readFully(file, bytes, 0, path);
    return decodeUtf8(bytes, path);
  });
}

export function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** `where` names the source in the message: a path, or a path and a part of the file. */
export function decodeUtf8(bytes: Uint8Array, where: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new InputError("file-malformed", `${where}: is not UTF-8 text. Download the file again.`, { path: where });
  }
}

/** Error codes of Node that the user can act on, in words. */
const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "no such file or folder",
  ENOTDIR: "part of the path is a file, not a folder",
  EISDIR: "it is a folder, not a file",
  EACCES: "permission denied",
  EPERM: "permission denied",
  EROFS: "the file system is read-only",
  ELOOP: "its symbolic links form a loop",
  ENAMETOOLONG: "the name is too long",
  ERR_INVALID_ARG_VALUE: "it is not a valid file name",
};

/**
 * Converts an error of the file system into an InputError if the user can correct it: `output-unwritable` when writing,
 * otherwise `file-not-found` or `file-unreadable`. Returns other errors unchanged.
 */
export function asInputError(error: unknown, path: string, operation: "read" | "write"): unknown {
  const systemCode = (error as NodeJS.ErrnoException).code ?? "";
  const reason = REASONS[systemCode];
  if (!reason) return error;
  const facts = { path, reason: systemCode };
  return operation === "write"
    ? new InputError("output-unwritable", `${path}: cannot be written: ${reason}.`, facts, { cause: error })
    : new InputError(
        systemCode === "ENOENT" ? "file-not-found" : "file-unreadable",
        `${path}: cannot be read: ${reason}.`,
        facts,
        { cause: error },
      );
}
