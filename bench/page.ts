/** Makes docs/performance.md from the results of all cases. */
import type { Case, Measurement } from "./cases/case.js";
import type { Machine } from "./machine.js";
import { type CaseResults, readResults } from "./results.js";
import { BUSY } from "./run.js";

/** The page as text, from the results in a folder. Cases without results are left out. */
export async function page(cases: readonly Case[], resultsFolder: string): Promise<string> {
  const sections: string[] = [];
  for (const one of cases) {
    const results = await readResults(resultsFolder, one.name);
    if (results) sections.push(...section(one, results));
  }
  if (sections.length === 0) throw new Error(`${resultsFolder} has no results yet. Run \`npm run bench\` first.`);
  return `${[INTRODUCTION, ...sections].join("\n").trim()}\n`;
}

const INTRODUCTION = `# Performance

This page is made from \`bench/results/\` by \`npm run bench -- --page\`. Do not edit it. The results have every number that was
measured.

\`\`\`sh
npm run bench -- --python PYTHON                            # everything; hours on a small machine
npm run bench -- --python PYTHON --case embedded-k1 --case embedded-all
\`\`\`

Each row is measured in processes of their own, ours and PyTorch's in turn. Both sides read the same weights, which are
random except in the embedded model, use as many threads, and compute in float32. PyTorch runs in several variants, and
a ratio compares with its best variant in that column, even if another variant is best in another column. A number is
the median of the rounds, and a ratio the median of the ratios within a round: below 1.00x, alignprop needs less.

*Peak memory* is the largest resident memory of the process. It counts pages of mapped weight files, which the kernel can drop
and read again. *Peak without mapped files* does not count them; it is sampled every 50 ms. Times are those of a call or step
after the first one, so they contain no loading and no compiling. A time is left out, or *disturbed*, if other processes or
the host of a virtual machine used more than a tenth of the CPUs meanwhile. Peaks are kept: they depend little on it.
`;

function section({ name, about, show }: Case, results: CaseResults): string[] {
  const { measurements } = results;
  return [`## ${name}`, "", about, "", ...spaced(show(measurements)), "", `_${provenance(results)}_`, ""];
}

/** Sentences become a list: Markdown would join them to one paragraph. */
function spaced(lines: readonly string[]): string[] {
  return lines.map((line) => (line === "" || line.startsWith("|") ? line : `- ${line}`));
}

function provenance({ machine, threads, commit, measurements }: CaseResults): string {
  const rounds = new Set(measurements.map(({ round }) => round)).size;
  const dates = measurements.map(({ began }) => began.slice(0, 10)).sort();
  const [first, last] = [dates[0], dates.at(-1)];
  return `${describe(machine)}; ${threads} threads; ${rounds} round${rounds === 1 ? "" : "s"}; commit ${commit}; ${
    first === last ? first : `${first} to ${last}`
  }. ${loadText(measurements)}`;
}

function describe({ cpu, cores, instructions, memory_bytes, system, versions }: Machine): string {
  const programs = Object.entries(versions).map(([name, version]) => `${name} ${version}`);
  return [
    `${cpu}, ${cores} cores (${instructions.join(", ")})`,
    `${(memory_bytes / 1e9).toFixed(0)} GB`,
    system,
    programs.join(", "),
  ].join("; ");
}

/** How busy the machine was with other things, in the worst measurement. */
function loadText(measurements: readonly Measurement[]): string {
  const most = (numbers: readonly (number | null)[]) => Math.max(0, ...numbers.map((number) => number ?? 0));
  const percent = (share: number) => `${(100 * share).toFixed(0)} %`;
  const others = most(measurements.map(({ load }) => load.others));
  const stolen = most(measurements.map(({ load }) => load.stolen));
  const before = most(measurements.map(({ load }) => load.average_before));
  const warning =
    Math.max(others, stolen) > BUSY
      ? "**The machine was not quiet all the time. Times that this disturbed are left out.** "
      : "";
  return (
    `${warning}While a measurement ran, other processes used at most ${percent(others)} of the machine's CPU time, and its host at most ` +
    `${percent(stolen)}; the load average before one was at most ${before.toFixed(1)}.`
  );
}
