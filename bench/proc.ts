/** What Linux says in /proc about a process and about the whole machine. Elsewhere these functions return undefined. */
import { readFileSync } from "node:fs";

/** Memory of a process in bytes. */
export interface ProcessMemory {
  /** Largest resident memory so far (VmHWM). It counts the pages of mapped files, which the kernel can drop and read again. */
  readonly peakResident: number;
  /** Memory that the kernel cannot drop without a swap file, at this moment: anonymous and shared memory. */
  readonly pinned: number;
}

export function processMemory(pid: number): ProcessMemory | undefined {
  const status = read(`/proc/${pid}/status`);
  if (status === undefined) return undefined;
  const bytes = (field: string) => {
    const [, kilobytes] = new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(status) ?? [];
    return kilobytes === undefined ? undefined : Number(kilobytes) * 1024;
  };
  const [peakResident, anonymous, shared] = [bytes("VmHWM"), bytes("RssAnon"), bytes("RssShmem")];
  // A process that has ended but was not waited for has no memory any more.
  if (peakResident === undefined || anonymous === undefined || shared === undefined) return undefined;
  return { peakResident, pinned: anonymous + shared };
}

/** Ticks of the CPU that a process and those of its children that have ended have used, in user and kernel mode. */
export function processTicks(pid: number): number | undefined {
  // The second field is the command in parentheses, and may contain spaces.
  const fields = read(`/proc/${pid}/stat`)
    ?.replace(/^.*\) /s, "")
    .split(" ");
  return fields?.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0);
}

/** Ticks of all CPUs together since the machine started. */
export interface MachineTicks {
  readonly total: number;
  /** Ticks in which a process or the kernel ran. */
  readonly busy: number;
  /** Ticks in which this virtual machine was ready to run, but its host ran something else. */
  readonly stolen: number;
}

export function machineTicks(): MachineTicks | undefined {
  const [, line] = /^cpu +(.*)$/m.exec(read("/proc/stat") ?? "") ?? [];
  if (line === undefined) return undefined;
  // Time in guests (the ninth and tenth number) is part of user time.
  const [user = 0, nice = 0, system = 0, idle = 0, waiting = 0, irq = 0, softirq = 0, stolen = 0] = line
    .split(" ")
    .map(Number);
  const busy = user + nice + system + irq + softirq;
  return { total: busy + idle + waiting + stolen, busy, stolen };
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
