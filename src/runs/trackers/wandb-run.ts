/** Shared by the online and the offline W&B tracker: the run's names, its config, and its history with images. */
import { createHash, randomBytes } from "node:crypto";
import { z } from "zod";
import { captionOf, IMAGES_KEY, type Png, readPng, type TrackedRow } from "./row.js";
import type { Outcome, TrackedRun } from "./tracker.js";

/** Valid names of entities and projects. */
export const NAME = /^[\w.-]+$/;

export interface WandbTarget {
  /** Empty for the account's default entity, which `wandb sync` finds out for an offline run. */
  readonly entity: string;
  readonly project: string;
}

/** The state that the tracker saves in the run's folder. */
export const stateSchema = z.object({
  mode: z.enum(["online", "offline"]),
  server: z.string().optional(),
  entity: z.string().regex(/^[\w.-]*$/),
  project: z.string().regex(NAME),
  /** The run's id in the project. */
  id: z.string().regex(/^[a-z0-9]{4,64}$/),
  /** Milliseconds since 1970. */
  began: z.number(),
  /** Name of the folder of an offline run. */
  folder: z.string().optional(),
  /** The last step that was logged; -1 if none was. */
  step: z.int().min(-1),
});
export type WandbState = z.output<typeof stateSchema>;

/** Eight random letters and digits, of which the first is a letter, like the ids that W&B creates. */
export function newRunId(): string {
  const letters = "abcdefghijklmnopqrstuvwxyz0123456789";
  return [...randomBytes(8)].map((byte, i) => letters[byte % (i === 0 ? 26 : 36)]).join("");
}

/** Prompts per list. */
const MAX_LISTED = 200;

/** The settings as W&B's config, with shortened lists of prompts. */
export function configOf(settings: TrackedRun["settings"]): Record<string, unknown> {
  const { train, eval: evaluated, ...prompts } = settings.prompts;
  const shortened = (list: readonly string[]) =>
    list.length > MAX_LISTED ? [...list.slice(0, MAX_LISTED), `… and ${list.length - MAX_LISTED} more`] : list;
  return { ...settings, prompts: { ...prompts, train: shortened(train), eval: shortened(evaluated) } };
}

export interface MediaFile {
  /** Path below the run's files. */
  readonly path: string;
  readonly bytes: Buffer;
}

/** A row of W&B's history, and the image files that it refers to. `began` is in milliseconds since 1970. */
export async function historyOf(row: TrackedRow, began: number) {
  const { step, scalars, images, time } = row;
  const read = await Promise.all(images.map(({ path }) => readPng(path)));
  const media = read.map(({ bytes }, i) => ({ path: mediaPath(step, i, bytes), bytes }));
  const [first] = read;
  const values: Record<string, unknown> = {
    ...Object.fromEntries(scalars),
    ...(first && { [IMAGES_KEY]: imagesValue(first, media, images.map(captionOf)) }),
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
  return `media/images/${IMAGES_KEY}_${step}_${index}_${hash}.png`;
}

/** Exit codes of the run's process. W&B shows 0 as finished and others as failed. */
export const EXIT_CODES: Readonly<Record<Outcome, number>> = { finished: 0, stopped: 130, failed: 1 };
