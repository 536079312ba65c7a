import { expect, test } from "vitest";
import { add, exp, input, reshape } from "../ops/index.js";
import { liveBytes } from "./live-bytes.js";

test("a value is alive from the node that computes it to the last node that reads it", () => {
  const x = input([100]);
  const a = exp(x);
  const b = exp(a);
  // exp(x), exp(exp(x)) and their sum are alive at once. Each has 400 bytes.
  expect(liveBytes({ name: "g", inputs: { x }, outputs: { y: add(a, b) } })).toBe(1200);
  // Here exp(x) is freed before the third exp.
  expect(liveBytes({ name: "g", inputs: { x }, outputs: { y: exp(b) } })).toBe(800);
});

test("an output stays alive to the end", () => {
  const x = input([100]);
  const a = exp(x);
  expect(liveBytes({ name: "g", inputs: { x }, outputs: { a, y: exp(exp(a)) } })).toBe(1200);
});

test("a reshape takes no memory and keeps its input alive", () => {
  const x = input([100]);
  const viewed = reshape(exp(x), [10, 10]);
  expect(liveBytes({ name: "g", inputs: { x }, outputs: { y: exp(viewed) } })).toBe(800);
});
