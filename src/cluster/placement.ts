/** What of its host belongs to a rank: a share of the processor's cores, and one of the GPUs. */
import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import type { Cluster } from "./cluster.js";

/**
 * Threads for each rank where the settings name no number. Launchers may bind ranks to cores; each core is then shared by those
 * that may use it.
 */
export async function threadShare(cluster: Cluster): Promise<number> {
  if (cluster.size === 1) return availableParallelism();
  const { rank, hosts } = cluster;
  const all = await cluster.allGather(ownCores());
  const here = all.filter((_, other) => hosts[other] === hosts[rank]);
  return coreShare(all[rank] as number[], here);
}

/** `everyone`: the cores of all ranks of the host, this one's among them. */
export function coreShare(own: readonly number[], everyone: readonly (readonly number[])[]): number {
  const share = own.reduce((sum, core) => sum + 1 / everyone.filter((cores) => cores.includes(core)).length, 0);
  // Thirds of three cores are one.
  return Math.max(1, Math.floor(share + 1e-6));
}

/** Numbers of the cores that this process may use. */
function ownCores(): number[] {
  const all = Array.from({ length: availableParallelism() }, (_, i) => i);
  try {
    const list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
    const cores = list === undefined ? all : coresIn(list);
    // A container may be allowed less time than its cores have.
    return cores.slice(0, all.length);
  } catch {
    // Not Linux.
    return all;
  }
}

/** "0-3,8" */
export function coresIn(list: string): number[] {
  return list.split(",").flatMap((range) => {
    const [from = 0, to = from] = range.split("-").map(Number);
    return Array.from({ length: to - from + 1 }, (_, i) => from + i);
  });
}

/** Which of the GPUs that CUDA shows is this rank's: one each in the order of the host's ranks, and around where there are fewer. */
export function gpuOf({ localRank }: Pick<Cluster, "localRank">, gpus = visibleGpus()): number {
  return gpus > 0 ? localRank % gpus : localRank;
}

/** Slurm and others show each rank its own alone. */
function visibleGpus(): number {
  const visible = process.env.CUDA_VISIBLE_DEVICES;
  if (visible !== undefined) return visible.split(",").filter((name) => name.trim() !== "").length;
  try {
    return readdirSync("/proc/driver/nvidia/gpus").length;
  } catch {
    return 0;
  }
}
