/** Commands that several ranks run together: one rank reports to the user, and all end with the same exit code. */
import { type Cluster, ClusterFailure, connect, launcherOf } from "../cluster/index.js";
import { InputError } from "../errors/index.js";
import { reportFailure } from "./failure.js";
import type { CommonOptions } from "./options.js";
import { processTerminal, type Terminal } from "./terminal.js";

/** Whether this process reports to the user until the ranks are connected. All ranks get the same command line. */
export function isSpokesman(): boolean {
  return (launcherOf(process.env)?.rank ?? 0) === 0;
}

export const silent: Terminal = { print() {}, say() {}, update() {}, isTTY: false };

/**
 * For commands that run in one process. Several would overwrite each other's files.
 *
 * @throws InputError `usage` if a launcher started several processes
 */
export function requireOneRank(command: string): void {
  const { size = 1, name = "" } = launcherOf(process.env) ?? {};
  if (size === 1) return;
  throw new InputError(
    "usage",
    `${name} started ${size} processes, but only train can run in several processes. Start ${command} without ${name}.`,
    { command, launcher: name, found: size, limit: 1 },
  );
}

/**
 * Runs `work` on the ranks that a launcher started, or on one rank without a launcher. If it fails on any rank of
 * several, one of them reports the failure, and this function ends the process.
 */
export async function withRanks(
  terminal: Terminal,
  options: CommonOptions,
  work: (cluster: Cluster) => Promise<void>,
): Promise<void> {
  const cluster = await connect();
  try {
    await work(cluster);
  } catch (error) {
    if (cluster.size === 1) throw error;
    cluster.fail(error);
    const { reason } = cluster.ended;
    const teller = reason instanceof ClusterFailure ? reason.teller : 0;
    // The terminal of ranks other than 0 is silent.
    const own = cluster.rank === 0 ? terminal : processTerminal();
    const exitCode = reportFailure(reason, cluster.rank === teller ? own : silent, options);
    await cluster.close(exitCode);
  }
  await cluster.close();
}
