/** A command that several ranks run together: one of them talks to people, and all end with the same exit code. */
import { type Cluster, ClusterFailure, connect, launcherOf } from "../cluster/index.js";
import { InputError } from "../errors/index.js";
import { failureOf } from "./failure.js";
import { processTerminal, type Terminal } from "./terminal.js";

/** Whether this is the process that talks, as long as the ranks have not met; all of them read the same command line. */
export function talks(): boolean {
  return (launcherOf(process.env)?.rank ?? 0) === 0;
}

export const silent: Terminal = { print() {}, say() {}, update() {}, isTTY: false };

/** For a command that one process does alone: several would write over each other. */
export function requireOneRank(command: string): void {
  const { size = 1, name = "" } = launcherOf(process.env) ?? {};
  if (size === 1) return;
  throw new InputError(
    "usage",
    `${name} started ${size} processes, but train is the only command for several; start ${command} by itself`,
  );
}

/** Joins the ranks that a launcher started, if one did, and leaves them when `work` is done, or has failed on any. */
export async function withRanks(
  terminal: Terminal,
  verbose: boolean,
  work: (cluster: Cluster) => Promise<void>,
): Promise<void> {
  const cluster = await connect();
  try {
    await work(cluster);
  } catch (error) {
    if (cluster.size === 1) throw error;
    cluster.fail(error);
    const { reason } = cluster.ended;
    const { exitCode, message } = failureOf(reason, verbose);
    const teller = reason instanceof ClusterFailure ? reason.teller : 0;
    if (teller === cluster.rank && message !== undefined) (teller === 0 ? terminal : processTerminal()).say(message);
    // This ends the process.
    await cluster.close(exitCode);
  }
  await cluster.close();
}
