import { contactSheet, type SheetOptions } from "../src/images/contact-sheet.js";
import { writeFileAtomic } from "../src/io/atomic.js";
import { IMAGE_LENGTH, IMAGE_SIZE } from "./data/render.js";

/** Writes a PNG of all images in batches [n, 3, 64, 64], in -1 … 1, one after another. */
export async function writeGrid(
  file: string,
  batches: readonly Float32Array[],
  { labels = [], ...options }: SheetOptions & { readonly labels?: readonly string[] } = {},
): Promise<void> {
  const images = batches.flatMap((batch) =>
    Array.from({ length: batch.length / IMAGE_LENGTH }, (_, i) => ({
      width: IMAGE_SIZE,
      height: IMAGE_SIZE,
      pixels: batch.subarray(i * IMAGE_LENGTH, (i + 1) * IMAGE_LENGTH),
    })),
  );
  const labelled = images.map((image, i) => ({ ...image, label: labels[i] ?? "" }));
  await writeFileAtomic(file, await contactSheet(labelled, options));
}
