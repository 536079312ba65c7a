/** W&B without its service: `wandb/offline-run-…/` in the run's folder, for `wandb sync` to send. */
import { mkdir, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { TrackedRow } from "./row.js";
import type { Outcome, TrackedRun, Tracker, TrackerOptions } from "./tracker.js";
import { WandbLog } from "./wandb-log.js";
import { configOf, EXIT_CODES, historyOf, newRunId, type SavedOutputs, type WandbTarget } from "./wandb-run.js";

export class WandbOffline implements Tracker {
  #log: WandbLog | undefined;
  #failed = false;
  #run: SavedOutputs;
  place: string | undefined;

  constructor(
    target: WandbTarget,
    kept: SavedOutputs | undefined,
    readonly options: TrackerOptions,
  ) {
    const fresh = { mode: "offline" as const, id: newRunId(), began: Date.now(), step: -1 };
    this.#run = kept ? { ...kept, ...target } : { ...fresh, ...target };
  }

  /** A run that goes on is written anew from the rows in its folder, under the same id: so no step is in it twice. */
  async start({ path, settings }: TrackedRun): Promise<number> {
    const { id, entity, project, began } = this.#run;
    const folder = this.#run.folder ?? `offline-run-${stamp(new Date(began))}-${id}`;
    this.place = join(path, "wandb", basename(folder));
    await this.#try(async () => {
      const files = join(this.#folder, "files");
      await mkdir(files, { recursive: true });
      const file = join(this.#folder, `run-${id}.wandb`);
      // What `wandb sync` left there about an earlier end of this run.
      for (const mark of [".synced", ".syncstate"]) await rm(`${file}${mark}`, { force: true });
      this.#log = await WandbLog.create(file);
      await this.#log.add({ kind: "header" });
      const config = configOf({ ...settings, out: path });
      await this.#log.add({ kind: "run", id, entity, project, name: basename(path), config, began });
      await this.#keep({ folder: basename(folder) });
      this.options.tell(`wandb: ${this.place} (wandb sync sends it)`);
    });
    return 0;
  }

  async row(row: TrackedRow): Promise<void> {
    await this.#try(async () => {
      const { values, media } = await historyOf(row, this.#run.began);
      for (const { path, bytes } of media) {
        const file = join(this.#folder, "files", path);
        await mkdir(dirname(file), { recursive: true });
        await writeFile(file, bytes);
      }
      if (media.length > 0) await this.#log?.add({ kind: "files", paths: media.map(({ path }) => path) });
      await this.#log?.add({ kind: "history", step: row.step, values });
      await this.#log?.add({ kind: "summary", values });
      await this.#keep({ step: row.step });
    });
  }

  async end(outcome: Outcome): Promise<void> {
    const seconds = (Date.now() - this.#run.began) / 1000;
    await this.#try(async () => this.#log?.add({ kind: "exit", code: EXIT_CODES[outcome], seconds }));
  }

  get #folder(): string {
    return this.place as string;
  }

  async #keep(change: Partial<SavedOutputs>): Promise<void> {
    this.#run = { ...this.#run, ...change };
    await this.options.keep(this.#run);
  }

  async #try(work: () => Promise<void>): Promise<void> {
    if (this.#failed) return;
    try {
      await work();
    } catch (error) {
      this.#failed = true;
      this.options.warn(`wandb: nothing more is written to ${this.place}: ${(error as Error).message}`);
    }
  }
}

/** 20261122_192823, in UTC. */
function stamp(time: Date): string {
  return time.toISOString().slice(0, 19).replaceAll(/[-:]/g, "").replace("T", "_");
}
