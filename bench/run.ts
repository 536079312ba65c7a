/**
 * Runs a process and measures it from outside: time, peak memory, and how busy the machine was with other things. Every
 * measurement of the bench is a process of its own, because the peak memory is that of a process.
 */
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { loadavg } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { memoryCgroup } from "./cgroup.js";
import { machineTicks, processMemory, processTicks } from "./proc.js";

export interface RunOptions {
  /** Program and arguments. */
  readonly command: readonly string[];
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Files that are removed from the page cache before the process starts, so that it reads them from the disk. */
  readonly uncached?: readonly string[] | undefined;
  /** Folders that are removed before the process starts, such as what an earlier attempt wrote. */
  readonly removed?: readonly string[] | undefined;
  /** Runs the process in a memory cgroup of this size. */
  readonly limitBytes?: number | undefined;
  /** Lines of output whose times are wanted, by name. */
  readonly milestones?: Readonly<Record<string, RegExp>> | undefined;
  /** Ends the process when this milestone is reached. */
  readonly until?: string | undefined;
  /** Waits at most so long until other processes use less than a tenth of the CPUs. */
  readonly quietSeconds?: number | undefined;
}

export interface ProcessResult {
  readonly began: string;
  /** From the start of the process to its end. */
  readonly wall_seconds: number;
  /** Peak of the resident memory, with mapped files. Null where the system does not say. */
  readonly peak_rss_bytes: number | null;
  /** Peak of the memory that the kernel cannot drop, from samples every 50 ms. */
  readonly peak_pinned_bytes: number | null;
  readonly load: MachineLoad;
  /** The JSON object that the process printed. */
  readonly report?: Readonly<Record<string, unknown>>;
  /** Seconds from the start of the process to each milestone. */
  readonly milestones?: Readonly<Record<string, number>>;
  /** Peak of the cgroup, if the process was to run in one; null if none could be made. */
  readonly cgroup?: { readonly limit_bytes: number; readonly peak_bytes: number | null };
  /** Why there is no result: the end of what the process printed to stderr, or the signal that ended it. */
  readonly failed?: string;
}

/** How busy the machine was with other things. Shares are of all its CPUs. Null where the system does not say. */
interface MachineLoad {
  /** Load average over the minute before the start. */
  readonly average_before: number;
  /** Share of CPU time in use in the half second before the start. */
  readonly busy_before: number | null;
  /** Share of CPU time that other processes used during the measurement. */
  readonly others: number | null;
  /** Share of CPU time that the host of this virtual machine took during the measurement. */
  readonly stolen: number | null;
}

const SAMPLE_MS = 50;

/** Share of the CPUs above which other processes disturb a measurement. */
export const BUSY = 0.1;

/** Runs and measures a process. One that fails is a result too, as is one whose cgroup cannot be made. */
export async function run({ command, ...options }: RunOptions): Promise<ProcessResult> {
  for (const folder of options.removed ?? []) await rm(folder, { recursive: true, force: true });
  for (const file of options.uncached ?? []) await dropFromCache(file);
  const { limitBytes } = options;
  if (limitBytes === undefined) return await measure(command, options);
  const cgroup = await memoryCgroup(limitBytes).catch((error: Error) => error);
  if (cgroup instanceof Error) {
    const notMeasured = { wall_seconds: 0, peak_rss_bytes: null, peak_pinned_bytes: null };
    const load = { average_before: loadavg()[0] as number, busy_before: null, others: null, stolen: null };
    const noCgroup = { limit_bytes: limitBytes, peak_bytes: null };
    return { began: new Date().toISOString(), ...notMeasured, load, cgroup: noCgroup, failed: cgroup.message };
  }
  try {
    const result = await measure(cgroup.inside(command), options);
    return { ...result, cgroup: { limit_bytes: limitBytes, peak_bytes: await cgroup.peakBytes() } };
  } finally {
    await cgroup.remove();
  }
}

async function measure(
  command: readonly string[],
  { env, milestones = {}, until, quietSeconds = 0 }: Omit<RunOptions, "command">,
): Promise<ProcessResult> {
  const deadline = performance.now() + 1000 * quietSeconds;
  let busyBefore = await busyShare();
  while (busyBefore !== undefined && busyBefore > BUSY && performance.now() < deadline) {
    await sleep(2000);
    busyBefore = await busyShare();
  }
  const averageBefore = loadavg()[0] as number;
  const before = machineTicks();

  const [program, ...args] = command as [string, ...string[]];
  const beganAt = new Date();
  const began = performance.now();
  const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  let peakResident = 0;
  let peakPinned = 0;
  let ticks = 0;
  const sample = () => {
    if (child.pid === undefined) return;
    const memory = processMemory(child.pid);
    peakResident = Math.max(peakResident, memory?.peakResident ?? 0);
    peakPinned = Math.max(peakPinned, memory?.pinned ?? 0);
    ticks = processTicks(child.pid) ?? ticks;
  };
  const sampling = setInterval(sample, SAMPLE_MS);
  if (child.pid !== undefined) dieFirst(child.pid);
  const endChild = () => void child.kill("SIGKILL");
  process.once("exit", endChild);

  const reached: Record<string, number> = {};
  let ended = false;
  const watch = (line: string) => {
    for (const [name, pattern] of Object.entries(milestones)) {
      if (name in reached || !pattern.test(line)) continue;
      reached[name] = (performance.now() - began) / 1000;
      if (name !== until) continue;
      sample();
      ended = child.kill("SIGKILL");
    }
  };
  const [stdout, stderr] = [collect(child.stdout, watch), collect(child.stderr, watch)];
  const failure = await new Promise<string | undefined>((resolve) => {
    child.on("error", (error) => resolve(error.message));
    child.on("close", (code, signal) => resolve(code === 0 ? undefined : (signal ?? `exit code ${code}`)));
  });
  clearInterval(sampling);
  process.off("exit", endChild);
  const wall = (performance.now() - began) / 1000;
  const after = machineTicks();
  const failed = failure === undefined || ended ? undefined : failureText(failure, stderr());
  const report = failed === undefined ? reportIn(stdout()) : undefined;
  return {
    began: beganAt.toISOString(),
    wall_seconds: wall,
    // The process itself knows its peak best: the last sample may be 50 ms before its end.
    peak_rss_bytes: Math.max(peakResident, Number(report?.peak_rss_bytes ?? 0)) || null,
    peak_pinned_bytes: peakPinned || null,
    load: {
      average_before: averageBefore,
      busy_before: busyBefore ?? null,
      others: before && after ? Math.max(0, after.busy - before.busy - ticks) / (after.total - before.total) : null,
      stolen: before && after ? (after.stolen - before.stolen) / (after.total - before.total) : null,
    },
    ...(report && { report }),
    ...(Object.keys(reached).length > 0 && { milestones: reached }),
    ...(failed !== undefined && { failed }),
  };
}

/** Share of the CPUs that is in use during half a second. */
async function busyShare(): Promise<number | undefined> {
  const before = machineTicks();
  await sleep(500);
  const after = machineTicks();
  return before && after && (after.busy - before.busy) / (after.total - before.total);
}

/** If memory runs out, the kernel ends this process and not another one of the machine. */
function dieFirst(pid: number): void {
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, "1000");
  } catch {
    // Not Linux, or the process has ended already.
  }
}

/** Collects what a stream says, and calls `watch` with each line as it arrives. */
function collect(stream: NodeJS.ReadableStream, watch: (line: string) => void): () => string {
  let all = "";
  let line = 0;
  stream.setEncoding("utf8");
  stream.on("data", (chunk: string) => {
    all += chunk;
    for (let end = all.indexOf("\n", line); end >= 0; end = all.indexOf("\n", line)) {
      watch(all.slice(line, end));
      line = end + 1;
    }
  });
  return () => all;
}

/** Why a process ended: the message of the error that it printed, or else the last lines of stderr. */
function failureText(reason: string, stderr: string): string {
  const lines = stderr.trim().split("\n");
  // JavaScript prints the call stack after the message of an error, Python before it.
  const message = lines.findLast((line) => /^[\w.]*(Error|Exception)\b.*: /.test(line)) ?? lines.slice(-3).join("\n");
  const hint = reason === "SIGKILL" ? " (the kernel ends a process so if memory runs out)" : "";
  return `${reason}${hint}${message && `: ${message.slice(0, 600)}`}`;
}

function reportIn(stdout: string): Readonly<Record<string, unknown>> | undefined {
  const start = stdout.indexOf("{");
  if (start < 0) return undefined;
  return JSON.parse(stdout.slice(start)) as Readonly<Record<string, unknown>>;
}

async function dropFromCache(file: string): Promise<void> {
  // GNU dd: no data is copied, and the pages of the file are dropped.
  const child = spawn("dd", [`if=${file}`, "iflag=nocache", "count=0"], { stdio: "ignore" });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  if (code !== 0) throw new Error(`dd could not drop ${file} from the page cache: exit code ${code}`);
}
