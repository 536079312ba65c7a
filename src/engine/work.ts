/** The work of a run: how it is divided, its graphs, and its memory. Built once, before anything is compiled. */
import { totalmem } from "node:os";
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
 * Plans the work of a run within `settings.memory`.
 *
 * @throws InputError `memory-too-small`
 */
export async function planWork(setup: TrainingSetup, options: WorkOptions = {}): Promise<Work> {
  return new WorkPlanner(setup, options).within(setup.settings.memory);
}

/** Plans the work of a run for one or several memory budgets. */
export class WorkPlanner {
  private readonly divisions: readonly Division[];
  private readonly graphs = new Map<Division, TrainingGraphs>();
  /** Memory that is free now, for each process of the run on this machine. */
  private readonly free: number;

  constructor(
    private readonly setup: TrainingSetup,
    { threads = threadsOf(setup.settings), ranks = { size: 1, localSize: 1 } }: WorkOptions = {},
  ) {
    this.divisions = divisions(setup, threads, { ranks: ranks.size, localRanks: ranks.localSize });
    this.free = process.availableMemory() / ranks.localSize;
  }

  /**
   * Plans as many replicas as `preferredReplicas` says and micro-batches of `batch.per_device`; where memory is too small for
   * them, one replica, and then smaller micro-batches. Without a budget, a run takes half of the free memory if it can, and all
   * of it if it must.
   *
   * @throws InputError `memory-too-small`
   */
  async within(budget: number | null): Promise<Work> {
    const { free } = this;
    let least = Number.POSITIVE_INFINITY;
    for (const limit of budget === null ? [free / 2, free] : [budget]) {
      for (const division of this.divisions) {
        const graphs = this.graphsOf(division);
        const memory = await planMemory(this.setup, division, graphs, limit);
        if (!("least" in memory)) return { division, graphs, memory };
        least = Math.min(least, memory.least);
      }
    }
    const needed = `this run needs about ${showBytes(least)}, even with one sample at a time and without saved residuals`;
    throw new InputError(
      "memory-too-small",
      budget === null
        ? `this machine has ${showBytes(free)} of free memory, but ${needed}. Close other programs, or lower the image size.`
        : `memory ${showBytes(budget)} is too small: ${needed}. Allow that much, or lower the image size.`,
      { setting: "memory", found: budget ?? free, expected: Math.ceil(least) },
    );
  }

  /**
   * Plans for a few budgets between the least that works and the most that a plan can use on a machine with this much memory,
   * without those that are the same.
   */
  async options(machineBytes = totalmem()): Promise<Work[]> {
    const least = await this.within(1).then(
      ({ memory }) => memory.expectedBytes,
      (error: unknown) => leastOf(error),
    );
    const unlimited = (await this.within(Number.MAX_VALUE)).memory.expectedBytes;
    const most = Math.max(least, Math.min(unlimited, machineBytes));
    const found = new Map<string, Work>();
    for (let i = 0; i < MOST_OPTIONS; i++) {
      const work = await this.within(
        i === MOST_OPTIONS - 1 ? most : least * (most / least) ** (i / (MOST_OPTIONS - 1)),
      );
      found.set(JSON.stringify([work.division, work.memory]), work);
    }
    return [...found.values()].toSorted((a, b) => a.memory.expectedBytes - b.memory.expectedBytes);
  }

  private graphsOf(division: Division): TrainingGraphs {
    const graphs = this.graphs.get(division) ?? trainingGraphs(this.setup, division);
    this.graphs.set(division, graphs);
    return graphs;
  }
}

const MOST_OPTIONS = 4;

/** The bytes that a refused plan needs. */
function leastOf(error: unknown): number {
  if (error instanceof InputError && error.code === "memory-too-small") return error.facts.expected as number;
  throw error;
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
