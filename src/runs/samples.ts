/** `samples/step-000010/`: the evaluation's pictures as `000.png` …, and `index.json` that says what each one is. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { EvaluationResult, RgbImage } from "../train/events.js";
import { readText } from "../weights/files.js";
import { writeFolderAtomic } from "./atomic-folder.js";
import { encodePng } from "./contact-sheet.js";
import { runFiles, samplesFolder } from "./layout.js";

export interface SampleEntry {
  readonly file: string;
  readonly prompt: string;
  readonly seed: number;
  readonly reward: number;
}

export async function writeSamples(run: string, step: number, result: EvaluationResult): Promise<void> {
  const { images, prompts, seeds, rewards } = result;
  await writeFolderAtomic(samplesFolder(run, step), async (folder) => {
    const entries: SampleEntry[] = images.map((_, i) => ({
      file: pictureName(i),
      prompt: prompts[i] as string,
      seed: seeds[i] as number,
      reward: rewards[i] as number,
    }));
    await writePictures(folder, images);
    await writeFile(join(folder, runFiles.sampleIndex), `${JSON.stringify(entries, null, 2)}\n`);
  });
}

/** Writes `000.png`, `001.png` … and gives their names. */
export async function writePictures(folder: string, images: readonly RgbImage[]): Promise<string[]> {
  const names = images.map((_, i) => pictureName(i));
  for (const [i, image] of images.entries()) await writeFile(join(folder, names[i] as string), await encodePng(image));
  return names;
}

export async function readSamples(run: string, step: number): Promise<SampleEntry[]> {
  const index = await readText(join(samplesFolder(run, step), runFiles.sampleIndex), 1 << 26);
  return JSON.parse(index) as SampleEntry[];
}

function pictureName(index: number): string {
  return `${String(index).padStart(3, "0")}.png`;
}
