/** Pictures on disk, with `index.json` that says what each one is: `samples/step-000010/000.png` … of a run's evaluation. */
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
  const names = result.images.map((_, i) => `${numbered(i)}.png`);
  await writeFolderAtomic(samplesFolder(run, step), (folder) =>
    writePictures(folder, result.images, entriesOf(result, names)),
  );
}

/** In a folder that a person named: `000_a-cat.png` …, `index.json`, and `evaluation.json` with `summary`. Gives the pictures' names. */
export async function writeEvaluation(path: string, result: EvaluationResult, summary: object): Promise<string[]> {
  const names = result.prompts.map(pictureName);
  await fillFolder(path, async (folder) => {
    await writePictures(folder, result.images, entriesOf(result, names));
    await writeFile(join(folder, runFiles.evaluation), `${JSON.stringify(summary, null, 2)}\n`);
  });
  return names;
}

function entriesOf({ prompts, seeds, rewards }: EvaluationResult, names: readonly string[]): SampleEntry[] {
  return names.map((file, i) => ({
    file,
    prompt: prompts[i] as string,
    seed: seeds[i] as number,
    reward: rewards[i] as number,
  }));
}

/** Each picture under the name of its entry, and the entries as `index.json`. */
export async function writePictures(
  folder: string,
  images: readonly RgbImage[],
  entries: readonly { readonly file: string }[],
): Promise<void> {
  for (const [i, image] of images.entries()) {
    await writeFile(join(folder, (entries[i] as { file: string }).file), await encodePng(image));
  }
  await writeFile(join(folder, runFiles.sampleIndex), `${JSON.stringify(entries, null, 2)}\n`);
}

/** With four bytes each and the rest of the name, well below the 255 bytes of file systems. */
const LONGEST_WORDS = 56;

/** `000_a-cat.png`: a picture's number and its prompt's letters and digits, whatever else the prompt holds. */
export function pictureName(prompt: string, index: number): string {
  const words = prompt.normalize("NFC").replaceAll(/[^\p{L}\p{M}\p{N}]+/gu, "-");
  const short = [...words].slice(0, LONGEST_WORDS).join("").replaceAll(/^-|-$/g, "");
  return `${numbered(index)}${short === "" ? "" : `_${short}`}.png`;
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

function numbered(index: number): string {
  return String(index).padStart(3, "0");
}
