import { type FileHandle, open, stat } from "node:fs/promises";
import { InputError } from "../errors/index.js";

/** Opens a regular file for reading and closes it again. What a user can mend is an InputError. */
export async function withFile<T>(path: string, use: (file: FileHandle, size: number) => Promise<T>): Promise<T> {
  let file: FileHandle;
  try {
    // Before opening: a named pipe would make `open` wait for ever.
    const found = await stat(path);
    if (!found.isFile()) {
      throw new InputError(
        "file-unreadable",
        `${path}: is ${found.isDirectory() ? "a folder" : "not a regular file"}; a file is needed.`,
      );
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

/** Fills `bytes` from `position` on; the file ending early is an error, as it was long enough when it was opened. */
export async function readFully(file: FileHandle, bytes: Uint8Array, position: number, path: string): Promise<void> {
  // One read call takes at most 2 GiB, less on some systems.
  const most = 2 ** 30;
  let done = 0;
  while (done < bytes.length) {
    const { bytesRead } = await file.read(bytes, done, Math.min(most, bytes.length - done), position + done);
    if (bytesRead === 0) {
      throw new InputError(
        "file-unreadable",
        `${path}: ends ${bytes.length - done} bytes early; it became shorter while it was read. Fetch it again.`,
      );
    }
    done += bytesRead;
  }
}

/** A whole text file of at most `maxBytes`, as UTF-8 without its byte order mark. */
export function readText(path: string, maxBytes: number): Promise<string> {
  return withFile(path, async (file, size) => {
    if (size > maxBytes) {
      throw new InputError(
        "file-unreadable",
        `${path}: has ${size} bytes, but such a file has at most ${maxBytes}. Is it the right file?`,
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

export function decodeUtf8(bytes: Uint8Array, where: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new InputError("file-unreadable", `${where}: is not UTF-8 text. Fetch it again.`);
  }
}

/** Reasons that lie with the path that was given, in words; other errors stay what they are. */
const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "no such file or folder",
  ENOTDIR: "a part of this path is a file, not a folder",
  EISDIR: "is a folder; a file is needed",
  EACCES: "permission denied",
  EPERM: "permission denied",
  EROFS: "lies on a read-only file system",
  ELOOP: "symbolic links lead round in a circle",
  ENAMETOOLONG: "the name is too long",
  ERR_INVALID_ARG_VALUE: "is not a possible file name",
};

export function asInputError(error: unknown, path: string, doing: "read" | "write"): unknown {
  const reason = REASONS[(error as NodeJS.ErrnoException).code ?? ""];
  return reason
    ? new InputError("file-unreadable", `${path}: cannot ${doing} this: ${reason}.`, {}, { cause: error })
    : error;
}

/** A file's bytes, or pieces that follow one another: together they may be more than one array can hold. */
export type FileContent = Uint8Array | readonly Uint8Array[];
