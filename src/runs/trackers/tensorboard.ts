/** TensorBoard event files in `tensorboard/` of the run's folder; `tensorboard --logdir runs` shows every run there. */
import { appendFile, mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { configText, imageFileName } from "../record/index.js";
import { type EventContent, eventRecord, imageValue, tensorValue } from "./event-file.js";
import { captionOf, readPng, type TrackedPicture, type TrackedRow } from "./row.js";
import type { TrackedRun, Tracker, TrackerOptions } from "./tracker.js";

const keptSchema = z.object({ step: z.int().min(-1) });

export async function openTensorboard(_: unknown, { kept, keep, warn }: TrackerOptions): Promise<Tracker> {
  return new Tensorboard(keptSchema.safeParse(kept).data?.step ?? -1, keep, warn);
}

class Tensorboard implements Tracker {
  #file: string | undefined;
  #failed = false;
  place: string | undefined;

  constructor(
    /** The last step that has been written; -1 for none. */
    readonly written: number,
    readonly keep: TrackerOptions["keep"],
    readonly warn: TrackerOptions["warn"],
  ) {}

  async start({ path, settings, step }: TrackedRun): Promise<number> {
    const folder = join(path, "tensorboard");
    this.place = folder;
    const first = Math.min(this.written, step) + 1;
    await this.#try(async () => {
      await mkdir(folder, { recursive: true });
      // Readers take the files of a folder in the order of their names.
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

  async row({ step, scalars, pictures, time }: TrackedRow): Promise<void> {
    await this.#try(async () => {
      await this.#add(step, { scalars }, time);
      const values: Uint8Array[] = [];
      for (const [i, picture] of pictures.entries()) {
        // A tag keeps its first description: what changes from step to step has no place in it.
        const { prompt, seed, path } = picture;
        const about = { title: prompt, description: `${escaped(prompt)}, seed ${seed}` };
        values.push(
          imageValue(`pictures/${imageFileName(prompt, i).replace(/\.png$/, "")}`, await readPng(path), about),
        );
      }
      if (pictures.length > 0) await this.#add(step, { values: [...values, captionTable(pictures)] }, time);
      await this.keep({ step });
    });
  }

  async end(): Promise<void> {}

  async #add(step: number, content: EventContent, time = Date.now()): Promise<void> {
    if (this.#file !== undefined) await appendFile(this.#file, eventRecord(time, step, content));
  }

  /** A disk that is full stops the run's folder as well; this is for what befalls these files alone. */
  async #try(work: () => Promise<void>): Promise<void> {
    if (this.#failed) return;
    try {
      await work();
    } catch (error) {
      this.#failed = true;
      this.warn(`tensorboard: nothing more is written to ${this.place}: ${(error as Error).message}`);
    }
  }
}

/** A step's captions as a text that TensorBoard shows as a table. */
function captionTable(pictures: readonly TrackedPicture[]): Uint8Array {
  const cells = pictures.flatMap((picture, i) => [
    imageFileName(picture.prompt, i).replace(/\.png$/, ""),
    escaped(captionOf(picture)),
  ]);
  const strings = ["picture", "caption", ...cells];
  return tensorValue({ tag: "captions", plugin: "text", shape: [pictures.length + 1, 2], strings });
}

/** So that TensorBoard's Markdown shows it as it is. */
function escaped(text: string): string {
  const entities: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;" };
  return text.replace(/[&<]|[\\`*_{}[\]()>#+\-.!]/g, (sign) => entities[sign] ?? `\\${sign}`);
}
