/** Assigns each rank a share of its host's processor cores and one of its GPUs. */
import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import type { Cluster } from "./cluster.js";

/**
 * Number of threads for this rank if the settings do not set one. Launchers may bind ranks to cores; the ranks that may
 * use a core share it.
 */
export async function threadShare(cluster: Cluster): Promise<number> {
  if (cluster.size === 1) return availableParallelism();
  const { rank, hosts } = cluster;
  const all = await cluster.allGather(ownCores());
  const here = all.filter((_, other) => hosts[other] === hosts[rank]);
  return coreShare(all[rank] as number[], here);
}

/**
 * This rank's share of its cores, at least 1. `everyone` lists the cores of all ranks of the host, including this one.
 */
export function coreShare(own: readonly number[], everyone: readonly (readonly number[])[]): number {
  const share = own.reduce((sum, core) => sum + 1 / everyone.filter((cores) => cores.includes(core)).length, 0);
  // Three thirds may add up to slightly less than 1.
  return Math.max(1, Math.floor(share + 1e-6));
}

/** Indices of the cores that this process may use. */
function ownCores(): number[] {
  const all = Array.from({ length: availableParallelism() }, (_, i) => i);
  try {
    const list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
    const cores = list === undefined ? all : coresIn(list);
    // A container may have a CPU quota below its number of cores.
    return cores.slice(0, all.length);
  } catch {
    // There is no /proc: this is not Linux.
    return all;
  }
}

/** Parses a list of cores such as "0-3,8". */
export function coresIn(list: string): number[] {
  return list.split(",").flatMap((range) => {
    const [from = 0, to = from] = range.split("-").map(Number);
    return Array.from({ length: to - from + 1 }, (_, i) => from + i);
  });
}

/**
 * Index of this rank's GPU among those that CUDA shows. The ranks of a host get one GPU each, in order; if there are
 * fewer GPUs than ranks, several ranks share one.
 */
export function gpuOf({ localRank }: Pick<Cluster, "localRank">, gpus = visibleGpus()): number {
  return gpus > 0 ? localRank % gpus : localRank;
}

/** Number of GPUs that CUDA shows to this process. Slurm and others may show each rank only its own. */
function visibleGpus(): number {
  const visible = process.env.CUDA_VISIBLE_DEVICES;
  if (visible !== undefined) return visible.split(",").filter((name) => name.trim() !== "").length;
  try {
    return readdirSync("/proc/driver/nvidia/gpus").length;
  } catch {
    return 0;
  }
}
