/** Whether a folder can take what a command makes: checked before the work starts, so that none of it is lost. */
import { mkdir, mkdtemp, readdir, rmdir, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { InputError } from "../../errors/index.js";
import { asInputError } from "../../io/files.js";
import { runFiles } from "./layout.js";

/** For runs and for `--out` of other commands: a folder that holds nothing yet, or that is not there yet. */
export async function requireEmpty(path: string): Promise<void> {
  const info = await stat(path).catch(() => undefined);
  if (info === undefined) return;
  if (!info.isDirectory())
    throw new InputError("output-unwritable", `--out ${path}: this is a file; name a folder that can be made`);
  const names = await readdir(path);
  if (names.length === 0) return;
  const resume = names.includes(runFiles.config) ? `, or go on with this run: --resume ${path}` : "";
  throw new InputError(
    "output-unwritable",
    `--out ${path}: the folder is not empty (${names.length} entries, such as ${names[0]}); name another${resume}`,
  );
}

/** The nearest folder above that exists must take new files. */
export async function requireWritable(path: string): Promise<void> {
  let folder = resolve(path);
  let info = await stat(folder).catch(() => undefined);
  while (info === undefined && dirname(folder) !== folder) {
    folder = dirname(folder);
    info = await stat(folder).catch(() => undefined);
  }
  if (info?.isDirectory() === false)
    throw new InputError("output-unwritable", `--out ${path}: ${folder} is a file, not a folder`);
  // Permissions alone do not tell: root has them all, also in /proc and where the disk is full.
  try {
    await rmdir(await mkdtemp(join(folder, ".alignprop-")));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new InputError(
      "output-unwritable",
      `--out ${path}: cannot write in ${folder} (${code}); name another folder`,
      {},
      { cause: error },
    );
  }
}

/** Makes the folder of a new run: `out`, or the first free `runs/<name>-<n>`, also when two runs start at once. */
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
