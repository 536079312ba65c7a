/**
 * Tracking in TensorBoard: event files in `tensorboard/` of the run's folder. `tensorboard --logdir runs` shows all
 * runs.
 */
import { appendFile, mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { configText, imageFileName } from "../record/index.js";
import { type EventContent, eventRecord, imageValue, tensorValue } from "./event-file.js";
import { captionOf, IMAGES_KEY, readPng, type TrackedImage, type TrackedRow } from "./row.js";
import type { TrackedRun, Tracker, TrackerOptions } from "./tracker.js";

const stateSchema = z.object({ step: z.int().min(-1) });

export async function openTensorboard(_: unknown, { saved, save, warn }: TrackerOptions): Promise<Tracker> {
  return new Tensorboard(stateSchema.safeParse(saved).data?.step ?? -1, save, warn);
}

class Tensorboard implements Tracker {
  #file: string | undefined;
  #failed = false;
  place: string | undefined;

  constructor(
    /** The last step that was written; -1 if none was. */
    readonly written: number,
    readonly save: TrackerOptions["save"],
    readonly warn: TrackerOptions["warn"],
  ) {}

  async start({ path, settings, step }: TrackedRun): Promise<number> {
    const folder = join(path, "tensorboard");
    this.place = folder;
    const first = Math.min(this.written, step) + 1;
    await this.#try(async () => {
      await mkdir(folder, { recursive: true });
      // TensorBoard reads the files of a folder in the order of their names.
      const number = (await readdir(folder)).length;
      const seconds = Math.floor(Date.now() / 1000);
      this.#file = join(folder, `events.out.tfevents.${seconds}.${String(number).padStart(4, "0")}.alignprop`);
      await writeFile(this.#file, eventRecord(Date.now(), 0, { fileVersion: "brain.Event:2" }), { flag: "wx" });
      if (number > 0) await this.#add(first, { restart: true });
      const config = `    ${configText({ ...settings, out: path }).replaceAll("\n", "\n    ")}`;
      const text = { tag: "config", plugin: "text", shape: [], strings: [config] } as const;
      await this.#add(step, { values: [tensorValue(text)] });
    });
    return first;
  }

  async row({ step, scalars, images, time }: TrackedRow): Promise<void> {
    await this.#try(async () => {
      await this.#add(step, { scalars }, time);
      const values: Uint8Array[] = [];
      for (const [i, image] of images.entries()) {
        // TensorBoard shows the first description of a tag, so it must not contain the reward, which changes at each
        // step.
        const { prompt, seed, path } = image;
        const labels = { title: prompt, description: `${escaped(prompt)}, seed ${seed}` };
        values.push(
          imageValue(`${IMAGES_KEY}/${imageFileName(prompt, i).replace(/\.png$/, "")}`, await readPng(path), labels),
        );
      }
      if (images.length > 0) await this.#add(step, { values: [...values, captionTable(images)] }, time);
      await this.save({ step });
    });
  }

  async end(): Promise<void> {}

  async #add(step: number, content: EventContent, time = Date.now()): Promise<void> {
    if (this.#file !== undefined) await appendFile(this.#file, eventRecord(time, step, content));
  }

  /** A failure to write these files ends the tracking, but not the run. */
  async #try(work: () => Promise<void>): Promise<void> {
    if (this.#failed) return;
    try {
      await work();
    } catch (error) {
      this.#failed = true;
      this.warn(`tensorboard: tracking stopped, because ${this.place} cannot be written: ${(error as Error).message}`);
    }
  }
}

/** The captions of a step as a tensor [n + 1, 2] of strings, which TensorBoard shows as a table. */
function captionTable(images: readonly TrackedImage[]): Uint8Array {
  const cells = images.flatMap((image, i) => [
    imageFileName(image.prompt, i).replace(/\.png$/, ""),
    escaped(captionOf(image)),
  ]);
  const strings = ["picture", "caption", ...cells];
  return tensorValue({ tag: "captions", plugin: "text", shape: [images.length + 1, 2], strings });
}

/** Escapes the text, because TensorBoard renders it as Markdown. */
function escaped(text: string): string {
  const entities: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;" };
  return text.replace(/[&<]|[\\`*_{}[\]()>#+\-.!]/g, (character) => entities[character] ?? `\\${character}`);
}
