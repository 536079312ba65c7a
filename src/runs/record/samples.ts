/**
 * Sample images on disk, described by an `index.json` beside them. An evaluation of a run writes
 * `samples/step-000010/000.png` ….
 */

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { encodePng } from "../../images/contact-sheet.js";
import type { RgbImage } from "../../images/rgb.js";
import { fillFolder, writeFolderAtomic } from "../../io/atomic-folder.js";
import { readJson } from "../../io/json.js";
import { type Diversity, type EvaluationResult, meanAndStd, type RewardSummary } from "../../scoring/index.js";
import { runFiles, samplesFolder, stepsIn } from "./layout.js";

const sampleEntry = z.object({
  file: z.string(),
  prompt: z.string(),
  seed: z.number(),
  reward: z.number(),
  /** Held-out reward of the image. */
  held_out: z.number().optional(),
  /** Mean cosine distance of the image's CLIP embedding from those of the other images of its prompt. */
  diversity: z.number().optional(),
});
export type SampleEntry = z.output<typeof sampleEntry>;

export async function writeSamples(run: string, step: number, result: EvaluationResult): Promise<void> {
  const names = result.images.map((_, i) => `${numbered(i)}.png`);
  await writeFolderAtomic(samplesFolder(run, step), (folder) =>
    writeImages(folder, result.images, entriesOf(result, names)),
  );
}

/**
 * Writes an evaluation into a folder of the user: images named like `000_a-cat.png`, `index.json`, and
 * `evaluation.json` with `summary`. Returns the names of the images.
 */
export async function writeEvaluation(path: string, result: EvaluationResult, summary: object): Promise<string[]> {
  const names = result.prompts.map(imageFileName);
  await fillFolder(path, async (folder) => {
    await writeImages(folder, result.images, entriesOf(result, names));
    await writeFile(join(folder, runFiles.evaluation), `${JSON.stringify(summary, null, 2)}\n`);
  });
  return names;
}

function entriesOf(
  { prompts, seeds, rewards, heldOut, diversity }: EvaluationResult,
  names: readonly string[],
): SampleEntry[] {
  return names.map((file, i) => ({
    file,
    prompt: prompts[i] as string,
    seed: seeds[i] as number,
    reward: rewards[i] as number,
    ...(heldOut && { held_out: heldOut.rewards[i] as number }),
    ...(diversity && { diversity: diversity.distances[i] as number }),
  }));
}

/** Writes each image under the file name of its entry, and the entries as `index.json`. */
export async function writeImages(
  folder: string,
  images: readonly RgbImage[],
  entries: readonly { readonly file: string }[],
): Promise<void> {
  for (const [i, image] of images.entries()) {
    await writeFile(join(folder, (entries[i] as { file: string }).file), await encodePng(image));
  }
  await writeFile(join(folder, runFiles.sampleIndex), `${JSON.stringify(entries, null, 2)}\n`);
}

/** In characters. At four bytes each, the whole file name stays below the 255 bytes that file systems allow. */
const MAX_PROMPT_LENGTH = 56;

/** `000_a-cat.png`: the index of an image, and the letters and digits of its prompt. */
export function imageFileName(prompt: string, index: number): string {
  const words = prompt.normalize("NFC").replaceAll(/[^\p{L}\p{M}\p{N}]+/gu, "-");
  const short = [...words].slice(0, MAX_PROMPT_LENGTH).join("").replaceAll(/^-|-$/g, "");
  return `${numbered(index)}${short === "" ? "" : `_${short}`}.png`;
}

export async function readSamples(run: string, step: number): Promise<SampleEntry[]> {
  return readJson(join(samplesFolder(run, step), runFiles.sampleIndex), z.array(sampleEntry), 1 << 26);
}

/** An evaluation without its images. */
export interface EvaluationRecord extends RewardSummary {
  readonly step: number;
  readonly heldOut?: RewardSummary | undefined;
  readonly diversity?: Diversity | undefined;
}

/** All evaluations in a run's folder, in the order of their steps. */
export async function readEvaluations(run: string): Promise<EvaluationRecord[]> {
  const records: EvaluationRecord[] = [];
  for (const step of await stepsIn(join(run, runFiles.samples))) records.push(await readEvaluation(run, step));
  return records;
}

export async function readEvaluation(run: string, step: number): Promise<EvaluationRecord> {
  const samples = await readSamples(run, step);
  // A measure is present for all samples of an evaluation or for none.
  const each = (key: "reward" | "held_out" | "diversity") => samples.flatMap((sample) => sample[key] ?? []);
  const [rewards, heldOut, distances] = [each("reward"), each("held_out"), each("diversity")];
  return {
    step,
    rewards,
    ...meanAndStd(rewards),
    ...(heldOut.length > 0 && { heldOut: { rewards: heldOut, ...meanAndStd(heldOut) } }),
    ...(distances.length > 0 && { diversity: { distances, mean: meanAndStd(distances).mean } }),
  };
}

function numbered(index: number): string {
  return String(index).padStart(3, "0");
}
