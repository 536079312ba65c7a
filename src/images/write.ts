/** Writes images as PNG files. */
import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { writeFileAtomic } from "../io/atomic.js";
import { asInputError } from "../io/files.js";
import { encodePng } from "./contact-sheet.js";
import type { RgbImage } from "./rgb.js";

/**
 * Writes an image as a PNG file, whose folder is created if it does not exist. An existing file is replaced.
 *
 * @throws InputError `output-unwritable` if the file system refuses
 * @example
 * await writePng("images/fox.png", image);
 */
export async function writePng(path: string, image: RgbImage): Promise<void> {
  await mkdir(dirname(path), { recursive: true }).catch((error: NodeJS.ErrnoException) => {
    // If the folder is a file, writing the image says so.
    if (error.code !== "EEXIST") throw asInputError(error, path, "write");
  });
  await writeFileAtomic(path, await encodePng(image));
}
