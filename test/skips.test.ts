import { expect, test } from "vitest";
import { refusedSkips } from "./skips.js";

/** A module of skipped tests, as vitest reports it. */
function skipped(relativeModuleId: string, ...names: string[]): Parameters<typeof refusedSkips>[0][number] {
  const children = { allTests: () => names.map((fullName) => ({ fullName })) };
  return { relativeModuleId, children } as unknown as Parameters<typeof refusedSkips>[0][number];
}

const modules = [skipped("test/cluster.test.ts", "ranks under MPICH > add", "ranks under Open MPI > add")];

test("every test may be skipped where nothing is said", () => {
  expect(refusedSkips(modules, undefined)).toEqual([]);
});

test("none may be skipped where the list is empty", () => {
  expect(refusedSkips(modules, "")).toEqual([
    "test/cluster.test.ts > ranks under MPICH > add",
    "test/cluster.test.ts > ranks under Open MPI > add",
  ]);
});

test("those may be skipped whose name contains an entry of the list", () => {
  expect(refusedSkips(modules, "two hosts,under MPICH")).toEqual(["test/cluster.test.ts > ranks under Open MPI > add"]);
});
