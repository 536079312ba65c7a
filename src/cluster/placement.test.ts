import { expect, test } from "vitest";
import { coreShare, coresIn, gpuOf } from "./placement.js";

test("lists of cores are parsed as Linux writes them", () => {
  expect(coresIn("0-3,8")).toEqual([0, 1, 2, 3, 8]);
  expect(coresIn("5")).toEqual([5]);
});

test("ranks share the cores that they are allowed to use", () => {
  const eight = coresIn("0-7");
  expect(coreShare(eight, [eight])).toBe(8);
  expect(coreShare(eight, [eight, eight])).toBe(4);
  expect(coreShare(eight, [eight, eight, eight])).toBe(2);
  // Each rank is bound to its own cores.
  expect(
    coreShare(
      [0, 1],
      [
        [0, 1],
        [2, 3],
      ],
    ),
  ).toBe(2);
  // Two ranks are bound to each socket.
  expect(coreShare(coresIn("0-3"), [coresIn("0-3"), coresIn("0-3"), coresIn("4-7"), coresIn("4-7")])).toBe(2);
  // There are more ranks than cores.
  expect(coreShare([0], [[0], [0], [0]])).toBe(1);
});

test("each rank of a host has its own GPU as long as there are enough", () => {
  const gpus = (count: number) => [0, 1, 2, 3].map((localRank) => gpuOf({ localRank }, count));
  expect(gpus(4)).toEqual([0, 1, 2, 3]);
  expect(gpus(2)).toEqual([0, 1, 0, 1]);
  // The launcher shows each rank only its own GPU.
  expect(gpus(1)).toEqual([0, 0, 0, 0]);
});
