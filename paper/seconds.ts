/** How long an update of each method takes: whole runs of a few updates, one method after another, on a machine at rest. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { Terminal } from "../src/cli/terminal.js";
import { duration } from "../src/runs/format.js";
import { train } from "../src/train/recipe.js";
import { writeFileAtomic } from "../src/weights/atomic.js";
import { exists } from "../src/weights/files.js";
import { readJson } from "../src/weights/json.js";
import { type Method, settingsOf } from "./methods.js";

/** The first update warms the caches and is not counted. */
const UPDATES = { update: 5, round: 2 };
const SECONDS_FILE = "seconds.json";
const seconds = z.record(z.string(), z.number());

/** Of an update of each method that was measured, by its name. */
export async function readSeconds(out: string): Promise<Record<string, number>> {
  const path = join(out, SECONDS_FILE);
  return (await exists(path)) ? await readJson(path, seconds) : {};
}

/** The median of a few updates, on all cores, without evaluations. */
export async function measureSeconds(out: string, methods: readonly Method[], terminal: Terminal): Promise<void> {
  for (const method of methods) {
    const settings = await settingsOf({ method, rate: method.rates[0] as number, seed: 0 });
    const updates = method.pictures > 8 ? UPDATES.round : UPDATES.update;
    const taken: number[] = [];
    // The evaluation before the first update and after the last are of one picture.
    const small = { ...settings.evaluation, every: updates, seeds_per_prompt: 1, batch: 1 };
    await train(
      { ...settings, train: { updates }, prompts: { ...settings.prompts, eval: ["fox"] }, evaluation: small },
      (event) => {
        if (event.kind === "stepped") taken.push(event.metrics.seconds);
      },
    );
    const counted = taken.slice(1).toSorted((a, b) => a - b);
    const median = counted[Math.floor((counted.length - 1) / 2)] as number;
    terminal.say(
      `${method.name}: ${duration(median)} for ${method.pictures} pictures (${taken.map(duration).join(", ")})`,
    );
    await mkdir(out, { recursive: true });
    await writeFileAtomic(
      join(out, SECONDS_FILE),
      `${JSON.stringify({ ...(await readSeconds(out)), [method.name]: median }, null, 2)}\n`,
    );
  }
}
