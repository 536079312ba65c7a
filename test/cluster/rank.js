// @ts-check
/**
 * One rank of a run, for `cluster.test.ts`: `mpirun -n 2 node rank.js SCENARIO FOLDER`. Each rank writes its result to
 * `rank-N.json` in that folder. The rank that reports a failure writes its message to stderr and its facts to
 * `failure.json`.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const dist = join(import.meta.dirname, "../../dist/src");
const load = (/** @type {string} */ file) => import(pathToFileURL(join(dist, file)).href);
/** @type {typeof import("../../src/cluster/connect.js")} */
const { connect } = await load("cluster/connect.js");
/** @type {typeof import("../../src/cluster/collective.js")} */
const { together } = await load("cluster/collective.js");
/** @type {typeof import("../../src/errors/index.js")} */
const { InputError } = await load("errors/index.js");

const [scenario, folder = "."] = process.argv.slice(2);
const pause = (/** @type {number} */ milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => cluster?.stop());
/**
 * @param {import("../../src/cluster/cluster.js").ClusterFailure | import("../../src/errors/index.js").InputError} error
 */
const report = ({ message, code, facts, ...rest }) => {
  console.error(`error: ${message}`);
  const ranks = "ranks" in rest ? rest.ranks : undefined;
  writeFileSync(join(folder, "failure.json"), JSON.stringify({ message, ranks, code, facts }));
};
const cluster = await connect().catch((/** @type {import("../../src/errors/index.js").InputError} */ error) => {
  if ((process.env.OMPI_COMM_WORLD_RANK ?? process.env.PMI_RANK) === "0") report(error);
  process.exit(2);
});
const { rank, size, hosts, localRank, localSize, transport } = cluster;
const tell = (/** @type {object} */ found) => writeFileSync(join(folder, `rank-${rank}.json`), JSON.stringify(found));

/** In scenarios where one rank misbehaves, it is the last one. */
const last = rank === size - 1;

/** @type {Record<string, () => Promise<void>>} */
const scenarios = {
  /** Runs every collective operation once. */
  all: async () => {
    // More than one chunk, to test the ends of the second one.
    const values = Float64Array.from({ length: 2 ** 20 + 3 }, (_, i) => (i + 1) / (rank + 1));
    await cluster.sum(values);
    const few = Float64Array.of(rank + 2 ** -40, rank === 0 ? 1 : Number.NaN);
    await cluster.sum(few);
    const uneven = { rank, pixels: new Uint8Array(rank * 3).fill(rank), missing: rank === 0 ? null : Number.NaN };
    const everywhere = await cluster.allGather(uneven);
    const first = await cluster.gather(uneven);
    const shared = await cluster.broadcast(rank === 0 ? { step: 7 } : { step: -1 });
    await cluster.barrier();
    tell({
      rank,
      size,
      localRank,
      localSize,
      hosts,
      transport,
      sums: [values[0], values[2 ** 20 - 1], values[2 ** 20], values.at(-1)],
      few: [few[0], String(few[1])],
      everywhere: everywhere.map(({ rank, pixels, missing }) => [rank, [...pixels], String(missing)]),
      first: first.map(({ pixels }) => pixels.length),
      shared,
    });
  },
  /** The last rank throws while the others wait at the sum. */
  error: async () => {
    if (last)
      throw new InputError("not-finite", "the gradient is not finite", { tensor: "g", filler: "f".repeat(5000) });
    await cluster.sum(new Float64Array(10));
  },
  /** All ranks find the same bad input. Rank 0 is the last one to report it. */
  shared: async () => {
    try {
      await together(cluster, async () => {
        throw new InputError("model-not-found", "no such model", { path: "m" });
      });
    } finally {
      if (rank === 0) await pause(500);
    }
  },
  /** Sums for ever, until the test ends it. Reports its process id once it is under way. */
  sums: async () => {
    for (let step = 0; ; step++) {
      await cluster.sum(new Float64Array(1000));
      await pause(20);
      if (step === 3) tell({ pid: process.pid });
    }
  },
  /** The last rank is alive but never reaches the sum. */
  late: async () => {
    if (last) await pause(60_000);
    await cluster.sum(new Float64Array(10));
  },
  /** All ranks work for a second. Then the last rank's main thread is busy for longer than the limit. */
  busy: async () => {
    await cluster.barrier();
    await pause(1000);
    const until = performance.now() + 2500;
    while (last && performance.now() < until);
    await cluster.sum(new Float64Array(10));
    tell({ fine: true });
  },
  /** The last rank starts another operation than the others. */
  apart: async () => {
    if (last) await cluster.barrier();
    else await cluster.sum(new Float64Array(10));
  },
};

let exitCode = 0;
try {
  await scenarios[scenario ?? ""]?.();
} catch (error) {
  cluster.fail(error);
  const { reason } = cluster.ended;
  if (reason.name === "StopRequest") {
    if (rank === 0) console.error("saved");
    writeFileSync(join(folder, `stopped-${rank}`), "");
  } else {
    exitCode = reason.input ? 2 : 1;
    if (reason.teller === rank) report(reason);
  }
}
await cluster.close(exitCode);
process.exitCode = exitCode;
