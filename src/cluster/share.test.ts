import { expect, test } from "vitest";
import { shareOf } from "./share.js";

test("ranks take contiguous parts of equal size until the list ends", () => {
  const parts = (count: number, size: number) =>
    Array.from({ length: size }, (_, rank) => shareOf([...Array(count).keys()], { rank, size }));
  expect(parts(6, 3)).toEqual([
    [0, 1],
    [2, 3],
    [4, 5],
  ]);
  expect(parts(5, 3)).toEqual([[0, 1], [2, 3], [4]]);
  expect(parts(1, 3)).toEqual([[0], [], []]);
});
