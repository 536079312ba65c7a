/**
 * Times a training step of AlignProp here and in PyTorch + diffusers + PEFT, alternately, from the same weight files and with
 * as many threads.
 *
 *     npm run bench -- --python path/to/python     (its packages: parity/requirements.txt)
 *
 * Each measurement runs in a process of its own, because the peak memory is measured per process. The peer runs with and
 * without gradient checkpointing and with both memory formats. Its best time and its smallest memory count, even if they come
 * from different runs.
 */
import { execFile } from "node:child_process";
import path from "node:path";
import { parseArgs, promisify } from "node:util";

const { values } = parseArgs({
  options: {
    python: { type: "string" },
    model: { type: "string", default: "models/emoji-64" },
    rewards: { type: "string", default: "models/rewards" },
    rounds: { type: "string", default: "3" },
    repeat: { type: "string", default: "5" },
    threads: { type: "string", default: "2" },
  },
});

interface Measurement {
  readonly seconds_median: number;
  readonly peak_rss_bytes: number;
  readonly loaded_rss_bytes: number;
  readonly matmul_gflops: number;
  readonly flops: number;
}

interface Job {
  readonly k: number;
  readonly batch: number;
}

const STEPS = 10;
const run = promisify(execFile);

async function measure(command: string, args: readonly string[]): Promise<Measurement> {
  const { stdout } = await run(command, args, { maxBuffer: 1 << 24 });
  return JSON.parse(stdout.slice(stdout.indexOf("{"))) as Measurement;
}

const common = ({ k, batch }: Job) => [
  "--model",
  values.model,
  "--k",
  String(k),
  "--batch",
  String(batch),
  "--steps",
  String(STEPS),
  "--threads",
  values.threads,
  "--repeat",
  values.repeat,
];

const ours = (job: Job) =>
  measure(process.execPath, [path.join(import.meta.dirname, "update.js"), ...common(job), "--rewards", values.rewards]);

const PEER_VARIANTS = [
  ["--checkpointing", "step", "--memory-format", "contiguous"],
  ["--checkpointing", "none", "--memory-format", "contiguous"],
  ["--checkpointing", "step", "--memory-format", "channels_last"],
  ["--checkpointing", "none", "--memory-format", "channels_last"],
];

const peer = (python: string, job: Job, variant: readonly string[]) =>
  measure(python, [
    "bench/peer.py",
    ...common(job),
    ...variant,
    "--reward-clip",
    path.join(values.rewards, "clip"),
    "--reward-head",
    path.join(values.rewards, "aesthetic/model.safetensors"),
  ]);

const median = (numbers: readonly number[]) =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] as number;
const mb = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`;
const share = ({ flops, seconds_median, matmul_gflops }: Measurement) =>
  `${((100 * flops) / seconds_median / 1e9 / matmul_gflops).toFixed(0)} % of ${matmul_gflops.toFixed(0)} GFLOP/s`;

console.log(
  `model ${values.model}, ${STEPS} steps with guidance, ${values.threads} threads, medians of ${values.repeat} training steps`,
);

if (values.python) {
  for (const job of [
    { k: 1, batch: 8 },
    { k: STEPS, batch: 8 },
  ]) {
    console.log(`\nK = ${job.k}, batch ${job.batch}`);
    const time: number[] = [];
    const memory: number[] = [];
    for (let round = 0; round < Number(values.rounds); round++) {
      const mine = await ours(job);
      const theirs: Measurement[] = [];
      for (const variant of PEER_VARIANTS) theirs.push(await peer(values.python, job, variant));
      const fastest = Math.min(...theirs.map(({ seconds_median }) => seconds_median));
      const smallest = Math.min(...theirs.map(({ peak_rss_bytes }) => peak_rss_bytes));
      const growth = Math.min(
        ...theirs.map(({ peak_rss_bytes, loaded_rss_bytes }) => peak_rss_bytes - loaded_rss_bytes),
      );
      time.push(mine.seconds_median / fastest);
      memory.push(mine.peak_rss_bytes / smallest);
      console.log(
        `  alignprop ${mine.seconds_median.toFixed(3)} s (${share(mine)}), peak ${mb(mine.peak_rss_bytes)}, above loading ${mb(mine.peak_rss_bytes - mine.loaded_rss_bytes)}` +
          `   PyTorch ${fastest.toFixed(3)} s, peak ${mb(smallest)}, above loading ${mb(growth)}`,
      );
    }
    console.log(
      `  time ${median(time).toFixed(2)}x PyTorch's, peak memory ${median(memory).toFixed(2)}x (medians of ${values.rounds} pairs)`,
    );
  }
} else {
  console.log("--python is not given: only this trainer is measured");
}

console.log("\nby K and by batch size");
for (const job of [1, 2, 5, 10].map((k) => ({ k, batch: 8 })).concat([2, 4, 16].map((batch) => ({ k: 1, batch })))) {
  const mine = await ours(job);
  console.log(
    `  K ${job.k}, batch ${job.batch}: ${mine.seconds_median.toFixed(3)} s, ${share(mine)}, peak ${mb(mine.peak_rss_bytes)}`,
  );
}
