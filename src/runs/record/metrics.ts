/** `metrics.jsonl`: one JSON object per line, one line per training step. A run only appends to it. */
import { appendFile } from "node:fs/promises";
import { join } from "node:path";
import { writeFileAtomic } from "../../io/atomic.js";
import { readText } from "../../io/files.js";
import type { StepMetrics } from "../../train/index.js";
import { runFiles } from "./layout.js";

const maxMetricsBytes = 1 << 30;

export async function appendMetrics(run: string, metrics: StepMetrics): Promise<void> {
  await appendFile(join(run, runFiles.metrics), `${JSON.stringify(metrics)}\n`);
}

/** Rows up to the first unreadable line, because a killed run may leave an incomplete last line. */
export async function readMetrics(run: string): Promise<StepMetrics[]> {
  const rows: StepMetrics[] = [];
  for (const line of (await readText(join(run, runFiles.metrics), maxMetricsBytes)).split("\n")) {
    const row = parseRow(line);
    if (row === undefined) break;
    rows.push(row);
  }
  return rows;
}

/** Deletes the rows after `step`, so that a resumed run does not write them twice. Returns the others. */
export async function truncateMetrics(run: string, step: number): Promise<StepMetrics[]> {
  const rows = (await readMetrics(run)).filter((row) => row.step <= step);
  await writeFileAtomic(join(run, runFiles.metrics), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  return rows;
}

function parseRow(line: string): StepMetrics | undefined {
  try {
    const row: unknown = JSON.parse(line);
    return typeof row === "object" && row !== null && "step" in row ? (row as StepMetrics) : undefined;
  } catch {
    return undefined;
  }
}
