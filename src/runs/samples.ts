/** `samples/step-000010/`: the evaluation's pictures as `000.png` …, and `index.json` that says what each one is. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { meanAndStd } from "../train/evaluate.js";
import type { EvaluationResult, RgbImage } from "../train/events.js";
import { readJson } from "../weights/json.js";
import { fillFolder, writeFolderAtomic } from "./atomic-folder.js";
import { encodePng } from "./contact-sheet.js";
import { runFiles, samplesFolder, stepsIn } from "./layout.js";

const sampleEntry = z.object({ file: z.string(), prompt: z.string(), seed: z.number(), reward: z.number() });
export type SampleEntry = z.output<typeof sampleEntry>;

export async function writeSamples(run: string, step: number, result: EvaluationResult): Promise<void> {
  await writeFolderAtomic(samplesFolder(run, step), (folder) => writeInto(folder, result));
}

/** The same, in a folder that a person named. */
export async function writeEvaluation(path: string, result: EvaluationResult): Promise<void> {
  await fillFolder(path, (folder) => writeInto(folder, result));
}

async function writeInto(folder: string, { images, prompts, seeds, rewards }: EvaluationResult): Promise<void> {
  const files = await writePictures(folder, images);
  const entries = files.map(
    (file, i): SampleEntry => ({
      file,
      prompt: prompts[i] as string,
      seed: seeds[i] as number,
      reward: rewards[i] as number,
    }),
  );
  await writeFile(join(folder, runFiles.sampleIndex), `${JSON.stringify(entries, null, 2)}\n`);
}

/** Writes `000.png`, `001.png` … and gives their names. */
export async function writePictures(folder: string, images: readonly RgbImage[]): Promise<string[]> {
  const names = images.map((_, i) => pictureName(i));
  for (const [i, image] of images.entries()) await writeFile(join(folder, names[i] as string), await encodePng(image));
  return names;
}

export async function readSamples(run: string, step: number): Promise<SampleEntry[]> {
  return readJson(join(samplesFolder(run, step), runFiles.sampleIndex), z.array(sampleEntry), 1 << 26);
}

/** The reward of an evaluation, over its pictures. */
export interface EvaluationSummary {
  readonly step: number;
  readonly mean: number;
  readonly std: number;
}

/** Of every evaluation in a run's folder, in the order of its steps. */
export async function readEvaluations(run: string): Promise<EvaluationSummary[]> {
  const summaries: EvaluationSummary[] = [];
  for (const step of await stepsIn(join(run, runFiles.samples))) {
    const rewards = (await readSamples(run, step)).map(({ reward }) => reward);
    summaries.push({ step, ...meanAndStd(rewards) });
  }
  return summaries;
}

function pictureName(index: number): string {
  return `${String(index).padStart(3, "0")}.png`;
}
