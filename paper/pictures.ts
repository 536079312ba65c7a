/** What the methods' last evaluations look like, a row each: no curve shows what became of the animals. */
import { join } from "node:path";
import sharp from "sharp";
import { contactSheet, type LabelledImage } from "../src/images/contact-sheet.js";
import { readImage } from "../src/images/read.js";
import { readSamples, samplesFolder } from "../src/runs/record/index.js";

export interface Row {
  readonly label: string;
  /** A run's folder, and one of its evaluations. */
  readonly folder: string;
  readonly update: number;
}

/** A picture of each prompt, the first noise. */
export async function pictureSheet(rows: readonly Row[]): Promise<Buffer> {
  const pictures: LabelledImage[] = [];
  let columns = 0;
  for (const { label, folder, update } of rows) {
    const samples = await readSamples(folder, update);
    const first = samples.filter(({ prompt }, i) => samples.findIndex((each) => each.prompt === prompt) === i);
    columns = first.length;
    for (const [i, { file, prompt }] of first.entries()) {
      const image = await readImage(join(samplesFolder(folder, update), file));
      pictures.push({ ...image, label: i === 0 ? `${label}: ${prompt}` : prompt });
    }
  }
  return await sharp(await contactSheet(pictures, { columns, scale: 2 }))
    .webp({ quality: 85 })
    .toBuffer();
}
