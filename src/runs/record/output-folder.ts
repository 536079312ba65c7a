/** Checks of output folders. They run before the work starts, so that no result is lost. */
import { mkdir, mkdtemp, readdir, rmdir, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { InputError } from "../../errors/index.js";
import { asInputError } from "../../io/files.js";
import { runFiles } from "./layout.js";

/**
 * Checks that `path` is an empty folder or does not exist.
 *
 * @throws InputError `output-exists` if the folder has entries, `output-unwritable` if `path` is a file
 */
export async function requireEmpty(path: string): Promise<void> {
  const info = await stat(path).catch(() => undefined);
  if (info === undefined) return;
  if (!info.isDirectory()) {
    throw new InputError("output-unwritable", `--out ${path}: this is a file. Give the path of a new folder.`, {
      option: "--out",
      path,
      found: "file",
    });
  }
  const names = await readdir(path);
  if (names.length === 0) return;
  const suggestion = names.includes(runFiles.config) ? `--resume ${path}` : undefined;
  const entries = names.length === 1 ? `1 entry, ${names[0]}` : `${names.length} entries, such as ${names[0]}`;
  const remedy =
    suggestion === undefined
      ? "Empty it, or name another folder."
      : `Resume its run with ${suggestion}, or name another folder.`;
  throw new InputError("output-exists", `--out ${path}: the folder is not empty (${entries}). ${remedy}`, {
    option: "--out",
    path,
    entries: names.length,
    example: names[0],
    suggestion,
  });
}

/**
 * Checks that a file can be created in `path`, or in its nearest parent that exists.
 *
 * @throws InputError `output-unwritable`
 */
export async function requireWritable(path: string): Promise<void> {
  let folder = resolve(path);
  let info = await stat(folder).catch(() => undefined);
  while (info === undefined && dirname(folder) !== folder) {
    folder = dirname(folder);
    info = await stat(folder).catch(() => undefined);
  }
  if (info?.isDirectory() === false) {
    throw new InputError("output-unwritable", `--out ${path}: ${folder} is a file, not a folder. Give another path.`, {
      option: "--out",
      path,
      folder,
      found: "file",
    });
  }
  // Checking permissions is not enough: root has all of them, even in /proc or on a full disk.
  try {
    await rmdir(await mkdtemp(join(folder, ".alignprop-")));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new InputError(
      "output-unwritable",
      `--out ${path}: cannot write in ${folder} (${code}). Check its permissions and free space, or name another folder.`,
      { option: "--out", path, folder, reason: code },
      { cause: error },
    );
  }
}

/**
 * Creates the folder of a new run: `out`, or the first free `runs/<name>-<n>`, even if two runs start at the same time.
 */
export async function makeRunFolder({ out, name }: { out: string | null; name: string }): Promise<string> {
  try {
    if (out !== null) {
      await mkdir(out, { recursive: true });
      await requireEmpty(out);
      return out;
    }
    await mkdir("runs", { recursive: true });
    for (let n = 1; ; n++) {
      const path = join("runs", `${name}-${n}`);
      const taken = await mkdir(path).then(
        () => false,
        (error: NodeJS.ErrnoException) => {
          if (error.code === "EEXIST") return true;
          throw error;
        },
      );
      if (!taken) return path;
    }
  } catch (error) {
    throw asInputError(error, out ?? "runs", "write");
  }
}
