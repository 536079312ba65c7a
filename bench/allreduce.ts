/**
 * Times the sum of gradients over ranks on this machine, as a run computes it (`Cluster.sum`): including the rendezvous before
 * it, two copies, and the handover to another thread. Numbers are sent as float64. For float32, read the column with half as
 * many bytes.
 *
 *     npm run build && node dist/bench/allreduce.js [--ranks 2,3] [--mpirun mpirun.openmpi,mpirun.mpich] [--repeat 20]
 */
import { execFile } from "node:child_process";
import { parseArgs, promisify } from "node:util";
import { connect, launcherOf, libraryNames } from "../src/cluster/index.js";
import { loadMpi, Mpi } from "../src/cluster/mpi/mpi.js";

/** Float64 numbers: a few, half and all parameters of rank-4 LoRA on Stable Diffusion 1.5, and ten times as many. */
const SIZES = [1_000, 398_592, 797_184, 7_971_840];

interface Row {
  readonly numbers: number;
  /** Median time of a sum, in milliseconds. */
  readonly sum: number;
  readonly transport: string;
}

async function rank(repeat: number): Promise<void> {
  const cluster = await connect();
  const rows: Row[] = [];
  for (const numbers of SIZES) {
    const values = new Float64Array(numbers).fill(1);
    const times: number[] = [];
    for (let i = 0; i < repeat; i++) {
      await cluster.barrier();
      const began = performance.now();
      await cluster.sum(values);
      times.push(performance.now() - began);
    }
    rows.push({ numbers, sum: median(times), transport: cluster.transport });
  }
  const all = await cluster.gather(rows);
  // A training step waits for the slowest rank.
  const slowest = SIZES.map((numbers, i) => ({
    numbers,
    sum: Math.max(...all.map((rows) => rows[i]?.sum ?? 0)),
    transport: cluster.transport,
  }));
  if (cluster.rank === 0) console.log(JSON.stringify(slowest));
  await cluster.close();
}

/**
 * Prints the microseconds that rank 0 works for one message and its answer. Many messages are in flight at once, so this is
 * the processing time, not the latency.
 */
async function message(count: number): Promise<void> {
  const mpi = loadMpi(libraryNames(launcherOf(process.env) ?? { families: ["Open MPI"] }, process.env));
  if (!(mpi instanceof Mpi)) throw new Error(mpi.missing.join("; "));
  const { rank } = mpi.init();
  const ready = () => Buffer.from(`${JSON.stringify({ kind: "ready", turn: 1, what: "a barrier", patience: 30 })}\0`);
  const [buffer, sent] = [Buffer.alloc(4096), [] as BigInt64Array[]];
  const began = performance.now();
  for (let i = 0; i < count; i++) {
    if (rank === 1) sent.push(mpi.send(0, ready()));
    while (mpi.receive(buffer) === undefined && rank === 0);
    if (rank === 0) {
      JSON.parse(buffer.toString("utf8", 0, buffer.indexOf(0)));
      sent.push(mpi.send(1, ready()));
    }
  }
  while (sent.some((request) => !mpi.isDone(request)));
  if (rank === 0) console.log(((1000 * (performance.now() - began)) / count).toFixed(1));
  const together = mpi.gatherEqual(new Uint8Array(1), new Uint8Array(2));
  while (!mpi.isDone(together) || mpi.receive(buffer) !== undefined);
  mpi.finalize();
}

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] as number;

const { values } = parseArgs({
  options: {
    ranks: { type: "string", default: "2,3" },
    mpirun: { type: "string", default: "mpirun.openmpi,mpirun.mpich" },
    repeat: { type: "string", default: "20" },
    rank: { type: "boolean", default: false },
    message: { type: "boolean", default: false },
  },
});

if (values.rank) await rank(Number(values.repeat));
else if (values.message) await message(5000);
else {
  const run = promisify(execFile);
  const env = { ...process.env, OMPI_MCA_rmaps_base_oversubscribe: "1" };
  console.log(`| library | ranks | ${SIZES.map((numbers) => `${((numbers * 8) / 1e6).toFixed(2)} MB`).join(" | ")} |`);
  console.log(`| --- | --- | ${SIZES.map(() => "---").join(" | ")} |`);
  for (const mpirun of values.mpirun.split(",")) {
    for (const ranks of values.ranks.split(",")) {
      const command = [process.execPath, import.meta.filename, "--rank", "--repeat", values.repeat];
      const { stdout } = await run(mpirun, ["-n", ranks, ...command], { env });
      const rows = JSON.parse(stdout) as Row[];
      console.log(
        `| ${rows[0]?.transport} | ${ranks} | ${rows.map(({ sum }) => `${sum.toFixed(2)} ms`).join(" | ")} |`,
      );
    }
  }
  for (const mpirun of values.mpirun.split(",")) {
    const { stdout } = await run(mpirun, ["-n", "2", process.execPath, import.meta.filename, "--message"], { env });
    console.log(`${mpirun}: ${stdout.trim()} µs of rank 0's time for a message and its answer`);
  }
}
