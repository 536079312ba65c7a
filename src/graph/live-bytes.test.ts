import { expect, test } from "vitest";
import { add, exp, input, reshape } from "../ops/index.js";
import { liveBytes } from "./live-bytes.js";

test("a value is alive from the node that makes it to the last that reads it", () => {
  const x = input([100]);
  const a = exp(x);
  const b = exp(a);
  // exp(x), exp(exp(x)) and their sum are there at once; each has 400 bytes.
  expect(liveBytes({ name: "g", inputs: { x }, outputs: { y: add(a, b) } })).toBe(1200);
  // Here exp(x) ends as the third begins.
  expect(liveBytes({ name: "g", inputs: { x }, outputs: { y: exp(b) } })).toBe(800);
});

test("an output stays to the end", () => {
  const x = input([100]);
  const a = exp(x);
  expect(liveBytes({ name: "g", inputs: { x }, outputs: { a, y: exp(exp(a)) } })).toBe(1200);
});

test("a reshape takes nothing, and keeps what it views alive", () => {
  const x = input([100]);
  const viewed = reshape(exp(x), [10, 10]);
  expect(liveBytes({ name: "g", inputs: { x }, outputs: { y: exp(viewed) } })).toBe(800);
});
