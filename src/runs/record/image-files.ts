/** Finds the image files that a user names, and their prompts. */
import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { z } from "zod";
import { InputError } from "../../errors/index.js";
import { asInputError, exists } from "../../io/files.js";
import { readJson } from "../../io/json.js";
import { look } from "../../weights/look/look.js";
import { runFiles } from "./layout.js";

export interface ImageFile {
  readonly file: string;
  /** From the index.json in the same folder, if it has one. */
  readonly prompt?: string;
}

const IMAGE = /\.(png|jpe?g|webp|avif|gif|tiff?)$/i;
const MAX_FILES = 100_000;

const index = z.array(z.looseObject({ file: z.string(), prompt: z.string() }));

/** Kinds of which sharp says more, or which it may read. */
const MAYBE_IMAGES: readonly string[] = ["image", "unknown", "empty", "text"];

/** @throws InputError `image-invalid` if the file is of another kind, which its content shows */
async function requireImage(path: string): Promise<void> {
  const { kind, what, advice, command } = await look(path);
  if (MAYBE_IMAGES.includes(kind)) return;
  throw new InputError("image-invalid", `${path}: is ${what}, not a picture. ${advice}`, {
    path,
    found: kind,
    ...(command && { suggestion: command.join(" ") }),
  });
}

/**
 * Takes files as they are, and from each folder the images directly in it, sorted by name.
 *
 * @throws InputError `file-not-found` if a path does not exist or a folder has no images, `usage` if there are too many
 */
export async function findImages(paths: readonly string[]): Promise<ImageFile[]> {
  const found: ImageFile[] = [];
  const indexes = new Map<string, Map<string, string>>();
  for (const path of paths) {
    const info = await stat(path).catch((error) => {
      throw asInputError(error, path, "read");
    });
    const inFolder = info.isDirectory()
      ? (await readdir(path)).filter((name) => IMAGE.test(name)).sort()
      : [basename(path)];
    if (info.isFile() && !IMAGE.test(path)) await requireImage(path);
    const folder = info.isDirectory() ? path : dirname(path);
    if (inFolder.length === 0) {
      throw new InputError(
        "file-not-found",
        `${path}: the folder has no images (png, jpg, webp, avif, gif or tiff). Give image files, or a folder of them.`,
        { path, expected: "images" },
      );
    }
    if (found.length + inFolder.length > MAX_FILES) {
      throw new InputError(
        "usage",
        `${path}: with this path there are more than ${MAX_FILES} images. Score them in several calls.`,
        { path, found: found.length + inFolder.length, limit: MAX_FILES },
      );
    }
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
