/**
 * Two ranks of one thread against one rank of two threads, and what adding up the gradients takes of an update. Runs take
 * turns, each in processes of its own; an update's time is that of rank 0's metrics, the median over the run.
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

/** 8 pictures an update, half of them on each of two ranks; nothing but updates after the first evaluation. */
async function secondsPerStep(ranks: number, threads: number): Promise<number> {
  const folder = await mkdtemp(join(tmpdir(), "alignprop-bench-"));
  const sets = [
    "estimator={ truncation: { mode: fixed, k: null } }",
    `batch={ samples_per_epoch: 8, total: 8, per_device: ${8 / ranks} }`,
    "evaluation={ every: 9999, batch: 4 }",
    "checkpoint={ every: 9999 }",
  ].flatMap((set) => ["--set", set]);
  const out = join(folder, "run");
  const own = [main, "train", "--model", values.model, "--threads", String(threads), "--steps", values.steps];
  const bound = { OMPI_MCA_hwloc_base_binding_policy: "none", OMPI_MCA_rmaps_base_oversubscribe: "1" };
  await run(values.mpirun, ["-n", String(ranks), process.execPath, ...own, "--out", out, ...sets], {
    env: { ...process.env, ...bound },
    maxBuffer: 1 << 24,
  });
  const rows = (await readFile(join(out, "metrics.jsonl"), "utf8")).trim().split("\n");
  await rm(folder, { recursive: true });
  // The first update still allocates.
  return median(rows.slice(1).map((row) => (JSON.parse(row) as StepMetrics).seconds));
}

const cases = [
  { ranks: 1, threads: 2 },
  { ranks: 2, threads: 1 },
] as const;
const found = cases.map(() => [] as number[]);
for (let round = 0; round < Number(values.rounds); round++) {
  for (const [i, { ranks, threads }] of cases.entries()) {
    const seconds = await secondsPerStep(ranks, threads);
    found[i]?.push(seconds);
    console.log(`${ranks} ranks of ${threads} threads: ${seconds.toFixed(3)} s an update`);
  }
}
const [one, two] = found.map(median) as [number, number];
console.log(
  `medians: ${one.toFixed(3)} s and ${two.toFixed(3)} s; two ranks take ${(two / one).toFixed(2)} times as long`,
);
