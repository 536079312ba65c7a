/**
 * Measures the time of a training step of each method: runs of a few steps, one method after another, on all cores. The result
 * is CPU time (summed over cores), which other work on the machine changes little.
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

/**
 * Training steps of a measurement. The last one is not counted, because an evaluation follows it. If several remain, the first
 * is not counted either, because it warms the caches.
 */
const STEPS = { small: 5, large: 2 };
const SECONDS_FILE = "seconds.json";
const secondsFile = z.record(z.string(), z.number());

/** CPU seconds per training step, by the name of the method; only of methods that were measured. */
export async function readSeconds(out: string): Promise<Record<string, number>> {
  const path = join(out, SECONDS_FILE);
  return (await exists(path)) ? await readJson(path, secondsFile) : {};
}

/** Writes the median of a few training steps, without evaluations. */
export async function measureSeconds(out: string, methods: readonly Method[], terminal: Terminal): Promise<void> {
  for (const method of methods) {
    const settings = await settingsOf({ method, rate: method.rates[0] as number, seed: 0 });
    const steps = method.samples > 8 ? STEPS.large : STEPS.small;
    const cpuSeconds: number[] = [];
    const wallSeconds: number[] = [];
    let before = process.cpuUsage();
    // The evaluations before the first step and after the last have one image.
    const small = { ...settings.evaluation, every: steps, seeds_per_prompt: 1, batch: 1 };
    await train(
      { ...settings, train: { steps }, prompts: { ...settings.prompts, eval: ["fox"] }, evaluation: small },
      (event) => {
        // The event of the first evaluation comes before the first step's, that of the last evaluation before the last step's.
        if (event.kind === "stepped" && cpuSeconds.length < steps - 1) {
          const { user, system } = process.cpuUsage(before);
          cpuSeconds.push((user + system) / 1e6);
          wallSeconds.push(event.metrics.seconds);
        }
        before = process.cpuUsage();
      },
    );
    const seconds = median(warm(cpuSeconds));
    terminal.say(
      `${method.name}: ${duration(seconds)} of CPU time for ${method.samples} samples (${cpuSeconds.map(duration).join(", ")}), ` +
        `${duration(median(warm(wallSeconds)))} of wall time`,
    );
    await mkdir(out, { recursive: true });
    await writeFileAtomic(
      join(out, SECONDS_FILE),
      `${JSON.stringify({ ...(await readSeconds(out)), [method.name]: seconds }, null, 2)}\n`,
    );
  }
}

function warm(values: readonly number[]): readonly number[] {
  return values.length > 1 ? values.slice(1) : values;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor((values.length - 1) / 2)] as number;
}
