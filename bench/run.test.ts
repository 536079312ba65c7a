import { existsSync } from "node:fs";
import { expect, test } from "vitest";
import { memoryCgroup } from "./cgroup.js";
import { run } from "./run.js";

/** A program that holds so many MB of memory for a moment, and then prints a report. */
const holding = (megabytes: number) => [
  process.execPath,
  "-e",
  `const held = Buffer.alloc(${megabytes} * 1e6, 1); setTimeout(() => console.log(JSON.stringify({ held: held.length })), 300)`,
];

const linux = existsSync("/proc/self/status");

test("a process is timed, and its report is read", async () => {
  const { wall_seconds, report, failed } = await run({ command: holding(1) });
  expect(failed).toBeUndefined();
  expect(report).toEqual({ held: 1e6 });
  expect(wall_seconds).toBeGreaterThan(0.3);
});

test.skipIf(!linux)("the peaks of resident memory grow by what a process holds", async () => {
  const [small, large] = [await run({ command: holding(1) }), await run({ command: holding(300) })];
  for (const peak of ["peak_rss_bytes", "peak_pinned_bytes"] as const) {
    const growth = (large[peak] ?? 0) - (small[peak] ?? 0);
    expect(growth).toBeGreaterThan(280e6);
    expect(growth).toBeLessThan(340e6);
  }
});

test.skipIf(!linux)("pages of mapped files are in one peak and not in the other", async () => {
  // node itself is a file of 90 MB or more.
  const { peak_rss_bytes, peak_pinned_bytes } = await run({ command: holding(1) });
  expect((peak_rss_bytes ?? 0) - (peak_pinned_bytes ?? 0)).toBeGreaterThan(20e6);
});

test("lines of output are timed, and one of them ends the process", async () => {
  const program = "console.log('first'); setTimeout(() => console.error('second'), 200); setTimeout(() => {}, 60000)";
  const { milestones, failed } = await run({
    command: [process.execPath, "-e", program],
    milestones: { one: /^first/, two: /^second/ },
    until: "two",
  });
  expect(failed).toBeUndefined();
  expect((milestones?.two ?? 0) - (milestones?.one ?? 0)).toBeGreaterThan(0.1);
});

test("a process that fails is reported with the message of its error", async () => {
  const { failed, report } = await run({
    command: [process.execPath, "-e", "console.log('{}'); throw new RangeError('too large')"],
  });
  expect(failed).toBe("exit code 1: RangeError: too large");
  expect(report).toBeUndefined();
  expect((await run({ command: ["/no/such/program"] })).failed).toContain("ENOENT");
});

const hasCgroup = await memoryCgroup(1e9).then(
  (group) => group.remove().then(() => true),
  () => false,
);

test.skipIf(!hasCgroup)("a process in a memory cgroup completes if it fits, and is ended if it does not", async () => {
  const fits = await run({ command: holding(50), limitBytes: 400e6 });
  expect(fits.failed).toBeUndefined();
  expect(fits.cgroup?.peak_bytes).toBeGreaterThan(50e6);
  expect(fits.cgroup?.peak_bytes).toBeLessThanOrEqual(400e6);
  const tooLarge = await run({ command: holding(800), limitBytes: 400e6 });
  expect(tooLarge.failed).toContain("SIGKILL");
});
