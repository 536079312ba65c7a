/** The rows that trackers log: the numbers of a step, and the images of its evaluation in the run's folder. */

import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { exists } from "../../io/files.js";
import { partMeans } from "../../rewards/index.js";
import { type EvaluationResult, monitorMetrics } from "../../scoring/index.js";
import type { StepMetrics } from "../../train/index.js";
import { readSamples, samplesFolder } from "../record/index.js";
import { format } from "../report/index.js";

export interface TrackedRow {
  /** 0 is the base model. */
  readonly step: number;
  /** Has the keys of `metrics.jsonl`. A part of a combined reward has a key like `rewards/clip`. */
  readonly scalars: ReadonlyMap<string, number>;
  /** Empty if there was no evaluation at this step. */
  readonly images: readonly TrackedImage[];
  /** Milliseconds since 1970. */
  readonly time: number;
}

export interface TrackedImage {
  readonly prompt: string;
  readonly seed: number;
  readonly reward: number;
  /** PNG file in the run's folder. */
  readonly path: string;
}

/** Key and tag prefix of the images. Saved dashboards depend on it, so it does not change. */
export const IMAGES_KEY = "pictures";

/** Images logged per step. The run's folder has all of them. */
const MAX_IMAGES = 64;

/** The row of a training step; reads its images from the run's folder. */
export async function stepRow(run: string, metrics: StepMetrics): Promise<TrackedRow> {
  const { step, rewards = {}, eval_rewards = {}, ...own } = metrics;
  const all = [
    ...Object.entries(own).map(([key, value]) => [key, value === true ? 1 : value] as const),
    ...under("rewards", rewards),
    ...under("eval_rewards", eval_rewards),
  ];
  return { step, scalars: numbers(all), images: await imagesOf(run, step), time: Date.now() };
}

/** The row of the base model's evaluation. */
export async function baseRow(
  run: string,
  { mean, std, parts, ...monitored }: Omit<EvaluationResult, "prompts" | "seeds" | "rewards" | "images">,
): Promise<TrackedRow> {
  const own = [["eval_reward_mean", mean] as const, ["eval_reward_std", std] as const];
  const all = [
    ...own,
    ...Object.entries(monitorMetrics(monitored)),
    ...under("eval_rewards", parts ? partMeans(parts) : {}),
  ];
  return { step: 0, scalars: numbers(all), images: await imagesOf(run, 0), time: Date.now() };
}

/** `a fox, reward 6.2, seed 3` */
export function captionOf({ prompt, reward, seed }: TrackedImage): string {
  return `${prompt}, reward ${format(reward)}, seed ${seed}`;
}

export interface Png {
  readonly bytes: Buffer;
  readonly width: number;
  readonly height: number;
}

/** Reads a PNG file. Its first chunk, IHDR, starts with the width and the height. */
export async function readPng(path: string): Promise<Png> {
  const bytes = await readFile(path);
  return { bytes, width: bytes.readUInt32BE(16), height: bytes.readUInt32BE(20) };
}

async function imagesOf(run: string, step: number): Promise<TrackedImage[]> {
  const folder = samplesFolder(run, step);
  if (!(await exists(folder))) return [];
  const entries = await readSamples(run, step);
  return entries.slice(0, MAX_IMAGES).map(({ file, ...entry }) => ({ ...entry, path: join(folder, basename(file)) }));
}

function under(prefix: string, parts: Readonly<Record<string, number>>): [string, number][] {
  return Object.entries(parts).map(([label, value]) => [`${prefix}/${label}`, value]);
}

/** The finite numbers. A skipped optimizer update, for example, has null as its gradient norm. */
function numbers(all: readonly (readonly [string, unknown])[]): Map<string, number> {
  return new Map(all.filter((entry): entry is [string, number] => Number.isFinite(entry[1])));
}
