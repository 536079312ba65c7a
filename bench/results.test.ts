import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Measurement } from "./cases/case.js";
import { CASES } from "./cases/index.js";
import type { Machine } from "./machine.js";
import { ResultsFile } from "./results.js";

const MACHINE: Machine = {
  cpu: "some CPU",
  cores: 2,
  instructions: ["avx2"],
  memory_bytes: 8e9,
  system: "linux 6",
  versions: { node: "20.19.0" },
};
const CONDITIONS = { name: "some-case", commit: "abc", machine: MACHINE, threads: 2, code: "1234" };
const JOB = { side: "alignprop", variant: "one", command: [] } as const;
const MEASUREMENT: Measurement = {
  side: "alignprop",
  variant: "one",
  round: 0,
  began: "2026-11-28",
  wall_seconds: 1,
  peak_rss_bytes: 1,
  peak_pinned_bytes: 1,
  load: { average_before: 0, busy_before: 0, others: 0, stolen: 0 },
};

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "bench-results-"));
  await (await ResultsFile.open(folder, CONDITIONS, false)).add(MEASUREMENT);
});
afterEach(() => rm(folder, { recursive: true }));

const knows = async (changes: Partial<typeof CONDITIONS>, again = false) =>
  (await ResultsFile.open(folder, { ...CONDITIONS, ...changes }, again)).has(JOB, 0);

test("a bench goes on with the results of an interrupted one", async () => {
  expect(await knows({})).toBe(true);
  const file = await ResultsFile.open(folder, CONDITIONS, false);
  expect(file.has(JOB, 1)).toBe(false);
  expect(file.has({ ...JOB, variant: "two" }, 0)).toBe(false);
});

test("other code, another machine, other versions and --again start a new file", async () => {
  expect(await knows({ code: "5678" })).toBe(false);
  expect(await knows({ threads: 1 })).toBe(false);
  expect(await knows({ machine: { ...MACHINE, cores: 4 } })).toBe(false);
  expect(await knows({ machine: { ...MACHINE, versions: { node: "22.0.0" } } })).toBe(false);
  expect(await knows({}, true)).toBe(false);
});

test("the peer can be added to results of our side", async () => {
  expect(await knows({ machine: { ...MACHINE, versions: { node: "20.19.0", torch: "2.15.0" } } })).toBe(true);
});

test("cases have different names", () => {
  expect(new Set(CASES.map(({ name }) => name)).size).toBe(CASES.length);
});
