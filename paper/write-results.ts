/** Writes `paper.json`, the charts, the images, and the tables of `paper.md`, from the runs that exist. */
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Terminal } from "../src/cli/terminal.js";
import { writeFileAtomic } from "../src/io/atomic.js";
import { exists } from "../src/io/files.js";
import { charts } from "./charts.js";
import { folderOf } from "./comparison.js";
import { crossings } from "./crossings.js";
import type { Point } from "./curves.js";
import { fillIn } from "./page.js";
import { type Row, sampleSheet } from "./pictures.js";
import { type Results, readResults } from "./results.js";
import { rounded, summary } from "./summary.js";
import { claims, tables } from "./tables.js";

const SAMPLES = "images/paper-pictures.webp";

/** Writes what the finished runs allow; nothing if no run has an evaluation. */
export async function writeResults(
  out: string,
  docs: string,
  threads: number | null,
  terminal: Terminal,
): Promise<void> {
  const results = await readResults(out, threads);
  if (!results.methods.some(({ mean }) => mean.length > 0)) return;
  await mkdir(join(docs, "images"), { recursive: true });
  await writeFileAtomic(join(docs, "paper.json"), `${JSON.stringify(await summary(results), rounded, 1)}\n`);
  for (const [name, svg] of charts(results)) await writeFileAtomic(join(docs, "images", `paper-${name}.svg`), svg);
  const rows = await sampleRows(results, out);
  if (rows.length > 1) await writeFileAtomic(join(docs, SAMPLES), await sampleSheet(rows));
  const page = join(docs, "paper.md");
  if (await exists(page)) {
    const filled = Object.entries(tables(results)).reduce(
      (content, [name, table]) => fillIn(content, name, table),
      await readFile(page, "utf8"),
    );
    await writeFileAtomic(page, filled);
  }
  for (const line of claims(crossings(results))) terminal.print(line);
}

/** The base model, and the last evaluation of each method's first seed. */
async function sampleRows({ methods }: Results, out: string): Promise<Row[]> {
  const rows: Row[] = [];
  for (const { method, tuning, seeds } of methods) {
    const [first] = seeds;
    if ("reward" in method.overrides || first === undefined || tuning.chosen === undefined) continue;
    const folder = folderOf(out, { method, rate: tuning.chosen, seed: first.seed });
    const { update, queries } = first.curve.at(-1) as Point;
    if (rows.length === 0) rows.push({ label: "base model", folder, step: 0 });
    rows.push({ label: `${method.label}, ${queries} queries`, folder, step: update });
  }
  return rows;
}
