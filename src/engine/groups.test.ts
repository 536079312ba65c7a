import { describe, expect, test } from "vitest";
import type { TrainingSample } from "../estimators/sample.js";
import { Rng } from "../tensor/rng.js";
import { callsToSave, groupSamples } from "./groups.js";

/** Samples whose masks are written as strings: "x" is a step that is kept. */
function samples(...masks: string[]): TrainingSample[] {
  return masks.map((mask, index) => ({
    epoch: 0,
    index,
    prompt: "",
    mask: [...mask].map((mark) => mark === "x"),
    noise: () => ({ initial: new Float32Array(), step: () => new Float32Array() }),
    rng: () => new Rng(0),
  }));
}

describe("groups", () => {
  test("are single micro-batches if all samples keep the same steps, and otherwise all micro-batches in one group", () => {
    const alike = samples("..x", "..x", "..x", "..x");
    expect(groupSamples(alike, 2).map((group) => group.length)).toEqual([1, 1]);
    const mixed = samples("..x", "..x", "..x", ".xx");
    expect(groupSamples(mixed, 2).map((group) => group.length)).toEqual([2]);
    expect(groupSamples(mixed, 2).flat(2)).toEqual(mixed);
  });

  test("of samples without masks, as in a rollout, are single micro-batches", () => {
    expect(groupSamples(samples("", "", ""), 2).map((group) => group.flat().length)).toEqual([2, 1]);
    expect(groupSamples([], 2)).toEqual([]);
  });
});

describe("the saved calls", () => {
  const [group] = groupSamples(samples("x.xx", "x.xx", "..xx", ".xx."), 2);
  if (!group) throw new Error("no group");

  test("are those whose step every sample of the micro-batch keeps, last steps first", () => {
    expect(callsToSave(group, 10)).toEqual([
      { batch: 0, step: 3 },
      { batch: 0, step: 2 },
      { batch: 1, step: 2 },
      { batch: 0, step: 0 },
    ]);
    expect(callsToSave(group, 2)).toEqual([
      { batch: 0, step: 3 },
      { batch: 0, step: 2 },
    ]);
  });

  test("are none without room, or without masks", () => {
    expect(callsToSave(group, 0)).toEqual([]);
    expect(callsToSave([samples("", "")], 10)).toEqual([]);
    expect(callsToSave([], 10)).toEqual([]);
  });
});
