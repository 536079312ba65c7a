/** The images of each method's last evaluation, one row per method. */
import { join } from "node:path";
import sharp from "sharp";
import { contactSheet, type LabelledImage } from "../src/images/contact-sheet.js";
import { readImage } from "../src/images/read.js";
import { readSamples, samplesFolder } from "../src/runs/record/index.js";

export interface Row {
  readonly label: string;
  /** The folder of a run, and the training step of an evaluation. */
  readonly folder: string;
  readonly step: number;
}

/** The first image of each prompt. */
export async function sampleSheet(rows: readonly Row[]): Promise<Buffer> {
  const images: LabelledImage[] = [];
  let columns = 0;
  for (const { label, folder, step } of rows) {
    const samples = await readSamples(folder, step);
    const first = samples.filter(({ prompt }, i) => samples.findIndex((each) => each.prompt === prompt) === i);
    columns = first.length;
    for (const [i, { file, prompt }] of first.entries()) {
      const image = await readImage(join(samplesFolder(folder, step), file));
      images.push({ ...image, label: i === 0 ? `${label}: ${prompt}` : prompt });
    }
  }
  return await sharp(await contactSheet(images, { columns, scale: 2 }))
    .webp({ quality: 85 })
    .toBuffer();
}
