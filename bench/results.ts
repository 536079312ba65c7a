/** Results on disk: one JSON file per case, written after every measurement, so that an interrupted bench can go on. */

import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import path from "node:path";
import { isDeepStrictEqual } from "node:util";
import { writeFileAtomic } from "../src/io/atomic.js";
import type { Job, Measurement } from "./cases/case.js";
import type { Machine } from "./machine.js";

/** What has to be the same for measurements to be compared with each other. */
export interface Conditions {
  readonly machine: Machine;
  readonly threads: number;
  /** Hash of the files that the measurements depend on. */
  readonly code: string;
}

export interface CaseResults extends Conditions {
  readonly case: string;
  readonly commit: string;
  readonly measurements: readonly Measurement[];
}

export async function readResults(folder: string, name: string): Promise<CaseResults | undefined> {
  const file = path.join(folder, `${name}.json`);
  return existsSync(file) ? (JSON.parse(await readFile(file, "utf8")) as CaseResults) : undefined;
}

export class ResultsFile {
  private constructor(
    private readonly folder: string,
    private results: CaseResults,
  ) {}

  /** Goes on with the file of an earlier bench under the same conditions. Otherwise, or with `again`, starts a new one. */
  static async open(
    folder: string,
    { name, commit, ...conditions }: Conditions & { readonly name: string; readonly commit: string },
    again: boolean,
  ): Promise<ResultsFile> {
    const empty = { case: name, commit, ...conditions, measurements: [] };
    const found = again ? undefined : await readResults(folder, name);
    return new ResultsFile(folder, found && sameConditions(found, conditions) ? found : empty);
  }

  get measurements(): readonly Measurement[] {
    return this.results.measurements;
  }

  has({ side, variant }: Job, round: number): boolean {
    return this.measurements.some((one) => one.side === side && one.variant === variant && one.round === round);
  }

  async add(measurement: Measurement): Promise<void> {
    this.results = { ...this.results, measurements: [...this.measurements, measurement] };
    await mkdir(this.folder, { recursive: true });
    const file = path.join(this.folder, `${this.results.case}.json`);
    await writeFileAtomic(file, `${JSON.stringify(this.results, null, 2)}\n`);
  }
}

/** Ours alone can be measured first, and the peer added later: versions that only one of both knows do not matter. */
function sameConditions(found: CaseResults, { machine, threads, code }: Conditions): boolean {
  const { versions: before, ...machineBefore } = found.machine;
  const { versions: now, ...machineNow } = machine;
  return (
    found.threads === threads &&
    found.code === code &&
    isDeepStrictEqual(machineBefore, machineNow) &&
    Object.entries(now).every(([name, version]) => (before[name] ?? version) === version)
  );
}
