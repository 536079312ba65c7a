import { describe, expect, test } from "vitest";
import type { TrainingSample } from "../estimators/sample.js";
import { Rng } from "../tensor/rng.js";
import { backwardCalls, callsToKeep, walksOf } from "./groups.js";

/** Pictures whose masks are written as the steps they keep: "x" kept, "." not. */
function pictures(...masks: string[]): TrainingSample[] {
  return masks.map((mask, index) => ({
    epoch: 0,
    index,
    prompt: "",
    mask: [...mask].map((mark) => mark === "x"),
    noise: () => ({ initial: new Float32Array(), step: () => new Float32Array() }),
    rng: () => new Rng(0),
  }));
}

describe("walks", () => {
  test("are the single micro-batches where all pictures keep the same steps, and all of them together where not", () => {
    const alike = pictures("..x", "..x", "..x", "..x");
    expect(walksOf(alike, 2).map((walk) => walk.length)).toEqual([1, 1]);
    const mixed = pictures("..x", "..x", "..x", ".xx");
    expect(walksOf(mixed, 2).map((walk) => walk.length)).toEqual([2]);
    expect(walksOf(mixed, 2).flat(2)).toEqual(mixed);
  });
});

describe("the calls to keep", () => {
  const [walk] = walksOf(pictures("x.xx", "x.xx", "..xx", ".xx."), 2);
  if (!walk) throw new Error("no walk");

  test("are those that every picture of the micro-batch keeps, the last steps first", () => {
    expect(callsToKeep(walk, 10)).toEqual([
      { batch: 0, step: 3 },
      { batch: 0, step: 2 },
      { batch: 1, step: 2 },
      { batch: 0, step: 0 },
    ]);
    expect(callsToKeep(walk, 2)).toEqual([
      { batch: 0, step: 3 },
      { batch: 0, step: 2 },
    ]);
  });

  test("leave the others to calls that pictures share", () => {
    // Step 3: picture 2 alone; step 1: picture 3 alone.
    expect(backwardCalls(walk, 2, 10)).toEqual({ kept: 4, recomputed: 2 });
    // Three pictures at step 3 and two at step 0, four at step 2, one at step 1: 2 + 1 + 2 + 1.
    expect(backwardCalls(walk, 2, 0)).toEqual({ kept: 0, recomputed: 6 });
  });
});
