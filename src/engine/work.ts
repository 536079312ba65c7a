/** The work of a run: how it is divided, its graphs, and its memory. Built once, before anything is compiled. */
import type { Cluster } from "../cluster/index.js";
import { threadsOf } from "../config/index.js";
import { InputError } from "../errors/index.js";
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

/** Plans as many replicas as `preferredReplicas` says, or one if the memory budget is too small for them. */
export async function planWork(
  setup: TrainingSetup,
  { threads = threadsOf(setup.settings), ranks = { size: 1, localSize: 1 } }: WorkOptions = {},
): Promise<Work> {
  const plan = async (replicas: number): Promise<Work> => {
    const division = divide(setup.settings, { ranks: ranks.size, localRanks: ranks.localSize, replicas });
    const graphs = trainingGraphs(setup, division);
    return { division, graphs, memory: await planMemory(setup, division, graphs) };
  };
  const replicas = preferredReplicas(setup, threads);
  if (replicas === 1) return await plan(1);
  try {
    return await plan(replicas);
  } catch (error) {
    // A budget that is too small for several replicas may be large enough for one.
    if (error instanceof InputError && error.code === "memory-too-small") return await plan(1);
    throw error;
  }
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
