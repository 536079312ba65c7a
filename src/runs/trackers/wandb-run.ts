/** What W&B's two forms have in common: a run's names, its config, and its history with pictures. */
import { createHash, randomBytes } from "node:crypto";
import { z } from "zod";
import type { Settings } from "../../config/index.js";
import { captionOf, type Png, readPng, type TrackedRow } from "./row.js";
import type { Outcome } from "./tracker.js";

/** Of entities and projects. */
export const NAME = /^[\w.-]+$/;

export interface WandbTarget {
  /** Empty where `wandb sync` is to find it out, or the account's own is meant. */
  readonly entity: string;
  readonly project: string;
}

/** The run in the project's address, and the last step that is there. */
export const keptSchema = z.object({
  mode: z.enum(["online", "offline"]),
  server: z.string().optional(),
  entity: z.string().regex(/^[\w.-]*$/),
  project: z.string().regex(NAME),
  id: z.string().regex(/^[a-z0-9]{4,64}$/),
  began: z.number(),
  folder: z.string().optional(),
  step: z.int().min(-1),
});
export type SavedOutputs = z.output<typeof keptSchema>;

/** As W&B makes them: eight letters and digits, the first a letter. */
export function newRunId(): string {
  const letters = "abcdefghijklmnopqrstuvwxyz0123456789";
  return [...randomBytes(8)].map((byte, i) => letters[byte % (i === 0 ? 26 : 36)]).join("");
}

/** Lists of prompts may be long. */
const MOST_LISTED = 200;

export function configOf(settings: Settings): Record<string, unknown> {
  const { train, eval: evaluated, ...prompts } = settings.prompts;
  const shortened = (list: readonly string[]) =>
    list.length > MOST_LISTED ? [...list.slice(0, MOST_LISTED), `… and ${list.length - MOST_LISTED} more`] : list;
  return { ...settings, prompts: { ...prompts, train: shortened(train), eval: shortened(evaluated) } };
}

export interface MediaFile {
  /** Below the run's files. */
  readonly path: string;
  readonly bytes: Buffer;
}

/** A row as W&B's history has it, and the files that it speaks of. */
export async function historyOf(row: TrackedRow, began: number) {
  const { step, scalars, pictures, time } = row;
  const read = await Promise.all(pictures.map(({ path }) => readPng(path)));
  const media = read.map(({ bytes }, i) => ({ path: mediaPath(step, i, bytes), bytes }));
  const [first] = read;
  const values: Record<string, unknown> = {
    ...Object.fromEntries(scalars),
    ...(first && { pictures: imagesValue(first, media, pictures.map(captionOf)) }),
    _step: step,
    _timestamp: time / 1000,
    _runtime: (time - began) / 1000,
  };
  return { values, media };
}

function imagesValue({ width, height }: Png, media: readonly MediaFile[], captions: readonly string[]) {
  const filenames = media.map(({ path }) => path);
  return { _type: "images/separated", width, height, format: "png", count: media.length, filenames, captions };
}

function mediaPath(step: number, index: number, bytes: Buffer): string {
  const hash = createHash("sha256").update(bytes).digest("hex").slice(0, 20);
  return `media/images/pictures_${step}_${index}_${hash}.png`;
}

/** Of the process, as W&B shows it: 0 is finished, all else is failed. */
export const EXIT_CODES: Readonly<Record<Outcome, number>> = { finished: 0, stopped: 130, failed: 1 };
