/** What trackers are told of a step: numbers, and the evaluation's pictures as the run's folder has them. */

import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { exists } from "../../io/files.js";
import { partMeans } from "../../rewards/index.js";
import { type EvaluationResult, monitorMetrics } from "../../scoring/index.js";
import type { StepMetrics } from "../../train/index.js";
import { readSamples, samplesFolder } from "../record/index.js";
import { format } from "../report/index.js";

export interface TrackedRow {
  /** 0 is the model as it was. */
  readonly step: number;
  /** By the keys of `metrics.jsonl`; a part of a combination's reward is `rewards/clip`. */
  readonly scalars: ReadonlyMap<string, number>;
  /** Empty where this step did not evaluate. */
  readonly pictures: readonly TrackedPicture[];
  /** Milliseconds since 1970. */
  readonly time: number;
}

export interface TrackedPicture {
  readonly prompt: string;
  readonly seed: number;
  readonly reward: number;
  /** A PNG file in the run's folder, which holds it until it is sent. */
  readonly path: string;
}

/** A page of pictures for each step; the run's folder has all of them. */
export const MOST_PICTURES = 64;

/** The row of a step in the run's folder. */
export async function stepRow(run: string, metrics: StepMetrics): Promise<TrackedRow> {
  const { step, rewards = {}, eval_rewards = {}, ...own } = metrics;
  const all = [
    ...Object.entries(own).map(([key, value]) => [key, value === true ? 1 : value] as const),
    ...under("rewards", rewards),
    ...under("eval_rewards", eval_rewards),
  ];
  return { step, scalars: numbers(all), pictures: await picturesOf(run, step), time: Date.now() };
}

/** The row of the model as it was: what its evaluation found. */
export async function baseRow(
  run: string,
  { mean, std, parts, ...watched }: Omit<EvaluationResult, "prompts" | "seeds" | "rewards" | "images">,
): Promise<TrackedRow> {
  const own = [["eval_reward_mean", mean] as const, ["eval_reward_std", std] as const];
  const all = [
    ...own,
    ...Object.entries(monitorMetrics(watched)),
    ...under("eval_rewards", parts ? partMeans(parts) : {}),
  ];
  return { step: 0, scalars: numbers(all), pictures: await picturesOf(run, 0), time: Date.now() };
}

/** `a fox, reward 6.2, seed 3` */
export function captionOf({ prompt, reward, seed }: TrackedPicture): string {
  return `${prompt}, reward ${format(reward)}, seed ${seed}`;
}

export interface Png {
  readonly bytes: Buffer;
  readonly width: number;
  readonly height: number;
}

/** A PNG's size stands at the start of its first chunk, IHDR. */
export async function readPng(path: string): Promise<Png> {
  const bytes = await readFile(path);
  return { bytes, width: bytes.readUInt32BE(16), height: bytes.readUInt32BE(20) };
}

async function picturesOf(run: string, step: number): Promise<TrackedPicture[]> {
  const folder = samplesFolder(run, step);
  if (!(await exists(folder))) return [];
  const entries = await readSamples(run, step);
  return entries
    .slice(0, MOST_PICTURES)
    .map(({ file, ...entry }) => ({ ...entry, path: join(folder, basename(file)) }));
}

function under(prefix: string, parts: Readonly<Record<string, number>>): [string, number][] {
  return Object.entries(parts).map(([label, value]) => [`${prefix}/${label}`, value]);
}

/** What can be drawn as a curve: null, of an update that was skipped, cannot. */
function numbers(all: readonly (readonly [string, unknown])[]): Map<string, number> {
  return new Map(all.filter((entry): entry is [string, number] => Number.isFinite(entry[1])));
}
