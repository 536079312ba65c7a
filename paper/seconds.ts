/**
 * How long an update of each method takes: whole runs of a few updates, one method after another, on all cores. What counts is
 * the processor's time, which other work on the machine changes little; with two busy cores a clock on the wall shows half.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { Terminal } from "../src/cli/terminal.js";
import { writeFileAtomic } from "../src/io/atomic.js";
import { exists } from "../src/io/files.js";
import { readJson } from "../src/io/json.js";
import { duration } from "../src/runs/report/index.js";
import { train } from "../src/train/index.js";
import { type Method, settingsOf } from "./methods.js";

/** The last is not counted, because an evaluation follows it, and of several the first, which warms the caches. */
const UPDATES = { update: 5, round: 2 };
const SECONDS_FILE = "seconds.json";
const seconds = z.record(z.string(), z.number());

/** The processor's, of an update of each method that was measured, by its name. */
export async function readSeconds(out: string): Promise<Record<string, number>> {
  const path = join(out, SECONDS_FILE);
  return (await exists(path)) ? await readJson(path, seconds) : {};
}

/** The median of a few updates, without evaluations. */
export async function measureSeconds(out: string, methods: readonly Method[], terminal: Terminal): Promise<void> {
  for (const method of methods) {
    const settings = await settingsOf({ method, rate: method.rates[0] as number, seed: 0 });
    const updates = method.pictures > 8 ? UPDATES.round : UPDATES.update;
    const taken: number[] = [];
    const onTheWall: number[] = [];
    let before = process.cpuUsage();
    // The evaluation before the first update and after the last are of one picture.
    const small = { ...settings.evaluation, every: updates, seeds_per_prompt: 1, batch: 1 };
    await train(
      { ...settings, train: { steps: updates }, prompts: { ...settings.prompts, eval: ["fox"] }, evaluation: small },
      (event) => {
        // An evaluation lies before the first update and after the last, and is told before them.
        if (event.kind === "stepped" && taken.length < updates - 1) {
          const { user, system } = process.cpuUsage(before);
          taken.push((user + system) / 1e6);
          onTheWall.push(event.metrics.seconds);
        }
        before = process.cpuUsage();
      },
    );
    const median = middle(warm(taken));
    terminal.say(
      `${method.name}: ${duration(median)} of the processor for ${method.pictures} pictures (${taken.map(duration).join(", ")}), ` +
        `${duration(middle(warm(onTheWall)))} on the wall`,
    );
    await mkdir(out, { recursive: true });
    await writeFileAtomic(
      join(out, SECONDS_FILE),
      `${JSON.stringify({ ...(await readSeconds(out)), [method.name]: median }, null, 2)}\n`,
    );
  }
}

function warm(values: readonly number[]): readonly number[] {
  return values.length > 1 ? values.slice(1) : values;
}

function middle(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor((values.length - 1) / 2)] as number;
}
