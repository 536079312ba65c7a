/** Offline tracking in W&B: writes `wandb/offline-run-…/` in the run's folder, which `wandb sync` uploads. */
import { mkdir, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { TrackedRow } from "./row.js";
import type { Outcome, TrackedRun, Tracker, TrackerOptions } from "./tracker.js";
import { WandbLog } from "./wandb-log.js";
import { configOf, EXIT_CODES, historyOf, newRunId, type WandbState, type WandbTarget } from "./wandb-run.js";

export class WandbOffline implements Tracker {
  #log: WandbLog | undefined;
  #failed = false;
  #state: WandbState;
  place: string | undefined;

  constructor(
    target: WandbTarget,
    saved: WandbState | undefined,
    readonly options: TrackerOptions,
  ) {
    const fresh = { mode: "offline" as const, id: newRunId(), began: Date.now(), step: -1 };
    this.#state = saved ? { ...saved, ...target } : { ...fresh, ...target };
  }

  /** Writes a resumed run again from its first row, under the same id, so that no step is in it twice. */
  async start({ path, settings }: TrackedRun): Promise<number> {
    const { id, entity, project, began } = this.#state;
    const folder = this.#state.folder ?? `offline-run-${stamp(new Date(began))}-${id}`;
    this.place = join(path, "wandb", basename(folder));
    await this.#try(async () => {
      const files = join(this.#folder, "files");
      await mkdir(files, { recursive: true });
      const file = join(this.#folder, `run-${id}.wandb`);
      // `wandb sync` writes these files when it uploads the run. They describe its old content.
      for (const mark of [".synced", ".syncstate"]) await rm(`${file}${mark}`, { force: true });
      this.#log = await WandbLog.create(file);
      await this.#log.add({ kind: "header" });
      const config = configOf({ ...settings, out: path });
      await this.#log.add({ kind: "run", id, entity, project, name: basename(path), config, began });
      await this.#save({ folder: basename(folder) });
      this.options.tell(`wandb: ${this.place} (upload it with wandb sync)`);
    });
    return 0;
  }

  async row(row: TrackedRow): Promise<void> {
    await this.#try(async () => {
      const { values, media } = await historyOf(row, this.#state.began);
      for (const { path, bytes } of media) {
        const file = join(this.#folder, "files", path);
        await mkdir(dirname(file), { recursive: true });
        await writeFile(file, bytes);
      }
      if (media.length > 0) await this.#log?.add({ kind: "files", paths: media.map(({ path }) => path) });
      await this.#log?.add({ kind: "history", step: row.step, values });
      await this.#log?.add({ kind: "summary", values });
      await this.#save({ step: row.step });
    });
  }

  async end(outcome: Outcome): Promise<void> {
    const seconds = (Date.now() - this.#state.began) / 1000;
    await this.#try(async () => this.#log?.add({ kind: "exit", code: EXIT_CODES[outcome], seconds }));
  }

  get #folder(): string {
    return this.place as string;
  }

  async #save(change: Partial<WandbState>): Promise<void> {
    this.#state = { ...this.#state, ...change };
    await this.options.save(this.#state);
  }

  async #try(work: () => Promise<void>): Promise<void> {
    if (this.#failed) return;
    try {
      await work();
    } catch (error) {
      this.#failed = true;
      this.options.warn(
        `wandb: tracking stopped, because ${this.place} cannot be written: ${(error as Error).message}`,
      );
    }
  }
}

/** The time in UTC as in 20261122_192823. */
function stamp(time: Date): string {
  return time.toISOString().slice(0, 19).replaceAll(/[-:]/g, "").replace("T", "_");
}
