/** A memory cgroup for one process, through the first version of the interface (/sys/fs/cgroup/memory). */
import { mkdir, readFile, rmdir, writeFile } from "node:fs/promises";
import path from "node:path";

const ROOT = "/sys/fs/cgroup/memory";

export interface MemoryCgroup {
  /** A command line that enters the cgroup and then becomes `command`. */
  inside(command: readonly string[]): string[];
  /** The largest number of bytes that the group was charged for: memory, and pages of files that it was the first to read. */
  peakBytes(): Promise<number>;
  /** Removes the group. Its processes must have ended. */
  remove(): Promise<void>;
}

/** @throws Error if this system has no such cgroup, or if this user may not make one */
export async function memoryCgroup(limitBytes: number): Promise<MemoryCgroup> {
  const folder = path.join(ROOT, `alignprop-bench-${process.pid}-${Date.now()}`);
  try {
    await mkdir(folder);
    // In a cgroup of the second version, the file does not exist and cannot be made.
    await writeFile(path.join(folder, "memory.limit_in_bytes"), String(Math.round(limitBytes)), { flag: "r+" });
  } catch (error) {
    await rmdir(folder).catch(() => {});
    throw new Error(`no memory cgroup can be made at ${ROOT}: ${(error as Error).message}`);
  }
  return {
    inside: (command) => ["sh", "-c", 'echo $$ > "$0" && exec "$@"', path.join(folder, "cgroup.procs"), ...command],
    peakBytes: async () => Number(await readFile(path.join(folder, "memory.max_usage_in_bytes"), "utf8")),
    remove: () => rmdir(folder),
  };
}
