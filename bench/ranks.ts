/**
 * Compares two ranks with one thread each and one rank with two threads. The runs alternate, each in new processes. The time
 * of a training step is the median of a run's steps, from the metrics of rank 0.
 *
 *     npm run build && node dist/bench/ranks.js [--mpirun mpirun.openmpi] [--rounds 3] [--steps 8]
 */
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs, promisify } from "node:util";
import type { StepMetrics } from "../src/train/index.js";

const { values } = parseArgs({
  options: {
    mpirun: { type: "string", default: "mpirun" },
    rounds: { type: "string", default: "3" },
    steps: { type: "string", default: "8" },
    model: { type: "string", default: "models/emoji-64" },
  },
});

const run = promisify(execFile);
const main = join(import.meta.dirname, "../src/cli/main.js");
const median = (numbers: readonly number[]) =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] as number;

/** 8 samples per step, divided among the ranks. There is no evaluation or checkpoint between the steps. */
async function secondsPerStep(ranks: number, threads: number): Promise<number> {
  const folder = await mkdtemp(join(tmpdir(), "alignprop-bench-"));
  const sets = [
    "estimator={ truncation: { mode: fixed, k: null } }",
    `batch={ samples_per_epoch: 8, total: 8, per_device: ${8 / ranks} }`,
    "evaluation={ every: 9999, batch: 4 }",
    "checkpoint={ every: 9999 }",
  ].flatMap((set) => ["--set", set]);
  const out = join(folder, "run");
  const args = [main, "train", "--model", values.model, "--threads", String(threads), "--steps", values.steps];
  const unbound = { OMPI_MCA_hwloc_base_binding_policy: "none", OMPI_MCA_rmaps_base_oversubscribe: "1" };
  await run(values.mpirun, ["-n", String(ranks), process.execPath, ...args, "--out", out, ...sets], {
    env: { ...process.env, ...unbound },
    maxBuffer: 1 << 24,
  });
  const rows = (await readFile(join(out, "metrics.jsonl"), "utf8")).trim().split("\n");
  await rm(folder, { recursive: true });
  // The first step also allocates memory.
  return median(rows.slice(1).map((row) => (JSON.parse(row) as StepMetrics).seconds));
}

const cases = [
  { ranks: 1, threads: 2 },
  { ranks: 2, threads: 1 },
] as const;
const measured = cases.map(() => [] as number[]);
for (let round = 0; round < Number(values.rounds); round++) {
  for (const [i, { ranks, threads }] of cases.entries()) {
    const seconds = await secondsPerStep(ranks, threads);
    measured[i]?.push(seconds);
    console.log(`${ranks} ranks of ${threads} threads: ${seconds.toFixed(3)} s per training step`);
  }
}
const [one, two] = measured.map(median) as [number, number];
console.log(
  `medians: ${one.toFixed(3)} s and ${two.toFixed(3)} s; two ranks take ${(two / one).toFixed(2)} times as long`,
);
