import { contactSheet, type SheetOptions } from "../src/images/contact-sheet.js";
import { writeFileAtomic } from "../src/io/atomic.js";
import { PICTURE_LENGTH, PICTURE_SIZE } from "./data/render.js";

/** A PNG of all pictures in batches [n, 3, 64, 64] of -1 … 1, one after another. */
export async function writeGrid(
  file: string,
  batches: readonly Float32Array[],
  { labels = [], ...options }: SheetOptions & { readonly labels?: readonly string[] } = {},
): Promise<void> {
  const pictures = batches.flatMap((batch) =>
    Array.from({ length: batch.length / PICTURE_LENGTH }, (_, i) => ({
      width: PICTURE_SIZE,
      height: PICTURE_SIZE,
      pixels: batch.subarray(i * PICTURE_LENGTH, (i + 1) * PICTURE_LENGTH),
    })),
  );
  const labelled = pictures.map((picture, i) => ({ ...picture, label: labels[i] ?? "" }));
  await writeFileAtomic(file, await contactSheet(labelled, options));
}
