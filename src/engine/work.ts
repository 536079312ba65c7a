/** The work of a run: how it is divided, its graphs, and its memory. Built once, before anything is compiled. */
import type { Cluster } from "../cluster/index.js";
import { threadsOf } from "../config/index.js";
import { InputError } from "../errors/index.js";
import { showBytes } from "../io/bytes.js";
import { sizeOf } from "../tensor/shape.js";
import type { WeightSource } from "../weights/source.js";
import { type Division, divide } from "./division.js";
import { type TrainingGraphs, trainingGraphs } from "./graphs.js";
import { planMemory } from "./memory.js";
import type { MemoryPlan } from "./memory-plan.js";
import type { TrainingSetup } from "./setup.js";

export interface Work {
  readonly division: Division;
  readonly graphs: TrainingGraphs;
  readonly memory: MemoryPlan;
}

export interface WorkOptions {
  /** CPU threads of this process; left out, those of the settings. */
  readonly threads?: number;
  readonly ranks?: Pick<Cluster, "size" | "localSize">;
}

/**
 * Plans as many replicas as `preferredReplicas` says and micro-batches of `batch.per_device`; where memory is too small for them,
 * one replica, and then smaller micro-batches. Without a budget, a run takes half of the free memory if it can, and all of it
 * if it must.
 *
 * @throws InputError `memory-too-small`
 */
export async function planWork(
  setup: TrainingSetup,
  { threads = threadsOf(setup.settings), ranks = { size: 1, localSize: 1 } }: WorkOptions = {},
): Promise<Work> {
  const { settings } = setup;
  const attempts = divisions(setup, threads, { ranks: ranks.size, localRanks: ranks.localSize });
  const free = process.availableMemory() / ranks.localSize;
  const built = new Map<Division, TrainingGraphs>();
  let least = Number.POSITIVE_INFINITY;
  for (const limit of settings.memory === null ? [free / 2, free] : [settings.memory]) {
    for (const division of attempts) {
      const graphs = built.get(division) ?? trainingGraphs(setup, division);
      built.set(division, graphs);
      const memory = await planMemory(setup, division, graphs, limit);
      if (!("least" in memory)) return { division, graphs, memory };
      least = Math.min(least, memory.least);
    }
  }
  const needed = `this run needs about ${showBytes(least)}, even with one sample at a time and without saved residuals`;
  const facts = { setting: "memory", found: settings.memory ?? free, expected: Math.ceil(least) };
  if (settings.memory === null) {
    const message = `this machine has ${showBytes(free)} of free memory, but ${needed}. Close other programs, or lower the image size.`;
    throw new InputError("memory-too-small", message, facts);
  }
  throw new InputError(
    "memory-too-small",
    `memory ${showBytes(settings.memory)} is too small: ${needed}. Allow that much, or lower the image size.`,
    facts,
  );
}

/** Ways to divide a step, in the order in which they are tried. */
function divisions(
  setup: TrainingSetup,
  threads: number,
  ranks: Pick<Division, "ranks" | "localRanks">,
): readonly Division[] {
  const { settings } = setup;
  const { per_device: perDevice } = settings.batch;
  const replicas = preferredReplicas(setup, threads);
  const found = [divide(settings, { ...ranks, replicas })];
  if (replicas > 1) found.push(divide(settings, ranks));
  for (let microBatch = perDevice - 1; microBatch > 0; microBatch--) {
    if (perDevice % microBatch === 0) found.push(divide(settings, { ...ranks, microBatch }));
  }
  return found;
}

/** Bytes of the U-Net's weights, over all replicas, up to which there are several. */
const MOST_REPLICATED_BYTES = 2 ** 28;

/** Small networks get a replica for each thread: the largest number that divides a micro-batch. */
export function preferredReplicas({ settings, pipeline }: TrainingSetup, threads: number): number {
  const { device, batch } = settings;
  if (device !== "cpu") return 1;
  const bytes = 4 * elementsUnder(pipeline.weights, "unet.");
  const most = Math.min(threads, Math.floor(MOST_REPLICATED_BYTES / Math.max(bytes, 1)));
  for (let replicas = most; replicas > 1; replicas--) if (batch.per_device % replicas === 0) return replicas;
  return 1;
}

/** Number of elements of all tensors whose names start with `prefix`. */
export function elementsUnder(source: WeightSource, prefix: string): number {
  let total = 0;
  for (const name of source.names()) if (name.startsWith(prefix)) total += sizeOf(source.get(name)?.shape ?? []);
  return total;
}
