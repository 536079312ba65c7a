import { expect, test } from "vitest";
import { broadcastShapes, normalizeAxis, sizeOf, stridesOf } from "./shape.js";

test("shapes broadcast as in NumPy, aligned at the last axis", () => {
  expect(broadcastShapes([2, 1, 3], [4, 1])).toEqual([2, 4, 3]);
  expect(broadcastShapes([3], [2, 3])).toEqual([2, 3]);
  expect(broadcastShapes([], [2, 3])).toEqual([2, 3]);
  expect(broadcastShapes([], [])).toEqual([]);
  expect(broadcastShapes([0, 3], [1, 3])).toEqual([0, 3]);
});

test("shapes that do not broadcast give null", () => {
  expect(broadcastShapes([2, 3], [2])).toBeNull();
  expect(broadcastShapes([2, 3], [3, 3])).toBeNull();
  expect(broadcastShapes([0], [2])).toBeNull();
});

test("a scalar has one element, and an axis of extent 0 leaves none", () => {
  expect([sizeOf([]), sizeOf([2, 3]), sizeOf([2, 0])]).toEqual([1, 6, 0]);
});

test("strides are row-major", () => {
  expect(stridesOf([2, 3, 4])).toEqual([12, 4, 1]);
  expect(stridesOf([])).toEqual([]);
});

test("axes count from either end, and an invalid one is named together with the op", () => {
  expect([normalizeAxis(-1, 3, "sum"), normalizeAxis(0, 3, "sum")]).toEqual([2, 0]);
  for (const axis of [3, -4, 0.5]) {
    expect(() => normalizeAxis(axis, 3, "sum")).toThrow(`sum: axis ${axis} is outside a tensor of rank 3`);
  }
});
