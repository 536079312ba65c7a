/**
 * Measures time and memory here and in PyTorch, in turn, from the same weights and with as many threads.
 *
 *     npm run bench -- --python path/to/python             (its packages: parity/requirements.txt)
 *     npm run bench -- --case embedded-k1 --rounds 1       only this case, and without --python only our side
 *     npm run bench -- --page                              docs/performance.md from the results so far
 *
 * Results are in bench/results/, one file per case. What is in a file is not measured again, unless the code or the machine has
 * changed or with --again: an interrupted bench goes on. The models of the large cases are written to --folder and kept; all of
 * them together take 15 GB.
 */
import { availableParallelism, tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { writeFileAtomic } from "../src/io/atomic.js";
import { benchCase } from "./bench-case.js";
import { CASES } from "./cases/index.js";
import { currentCommit, describeMachine, hashOfFiles } from "./machine.js";
import { page } from "./page.js";

/** What the measured programs consist of. The bench's own arrangement of them is not among it. */
const MEASURED = [
  ...["src", "parity/alignprop.py", "package-lock.json"],
  ...["bench/update.ts", "bench/unet-call.ts", "bench/tower.ts", "bench/generate-image.ts", "bench/matmul.ts"],
  ...["bench/peer.py", "bench/unet_peer.py", "bench/tower_peer.py", "bench/generate_peer.py"],
];

const { values } = parseArgs({
  options: {
    /** Names of cases; left out, all of them. */
    case: { type: "string", multiple: true },
    /** Interpreter with the peer's packages; left out, only our side is measured. */
    python: { type: "string" },
    rounds: { type: "string", default: "3" },
    threads: { type: "string", default: String(availableParallelism()) },
    /** Where generated models are. */
    folder: { type: "string", default: path.join(tmpdir(), "alignprop-bench") },
    /** Where results are. */
    results: { type: "string", default: "bench/results" },
    /** Measures what is in the results already. */
    again: { type: "boolean", default: false },
    /** After the first round, leaves out the variants of the peer that were its best in nothing. */
    "skip-slower": { type: "boolean", default: false },
    /**
     * Seconds to wait at most before each measurement until other processes use less than a tenth of the CPUs. A measurement that
     * is disturbed all the same is repeated, twice at most.
     */
    quiet: { type: "string", default: "0" },
    /** Only writes the page. */
    page: { type: "boolean", default: false },
  },
});
const unknown = values.case?.find((name) => !CASES.some((one) => one.name === name));
if (unknown !== undefined) {
  throw new Error(
    `--case ${unknown}: there is no such case. The cases are ${CASES.map(({ name }) => name).join(", ")}.`,
  );
}

// An interrupted bench takes the process that it measures with it.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => process.exit(1));

if (values.page) await writeFileAtomic("docs/performance.md", await page(CASES, values.results));
else {
  const { python } = values;
  const threads = Number(values.threads);
  const conditions = { machine: await describeMachine(python), threads, code: hashOfFiles(".", MEASURED) };
  const commit = await currentCommit(".");
  const context = { folder: path.resolve(values.folder), threads, python };
  const options = {
    rounds: Number(values.rounds),
    again: values.again,
    skipSlower: values["skip-slower"],
    quietSeconds: Number(values.quiet),
  };
  if (!python) console.log("--python is not given: only this side is measured");
  for (const one of CASES.filter(({ name }) => values.case?.includes(name) ?? true)) {
    await benchCase(one, context, { results: values.results, commit, conditions }, options);
  }
}
