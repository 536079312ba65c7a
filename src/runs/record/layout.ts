/** Names and paths of the files in a run's folder. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";

export const runFiles = {
  config: "config.yaml",
  metrics: "metrics.jsonl",
  samples: "samples",
  sampleIndex: "index.json",
  evaluation: "evaluation.json",
  checkpoints: "checkpoints",
  report: "report.html",
  trackers: "trackers.json",
} as const;

/** The model card in a checkpoint's folder, and the folder of the images that it shows. */
export const cardFiles = { card: "README.md", images: "images" } as const;

/** 10 → "step-000010". */
export function stepFolder(step: number): string {
  return `step-${String(step).padStart(6, "0")}`;
}

/** The steps that have a folder in `parent`, in order. Unfinished folders have other names and are ignored. */
export async function stepsIn(parent: string): Promise<number[]> {
  const names = await readdir(parent).catch(() => []);
  const steps = names.flatMap((name) => /^step-(\d{6,})$/.exec(name)?.[1] ?? []);
  return steps.map(Number).sort((a, b) => a - b);
}

export function samplesFolder(run: string, step: number): string {
  return join(run, runFiles.samples, stepFolder(step));
}

export function checkpointFolder(run: string, step: number): string {
  return join(run, runFiles.checkpoints, stepFolder(step));
}
