import { expect, test } from "vitest";
import { add, exp, input, reshape, sum } from "../ops/index.js";
import { workingBytes } from "./working-bytes.js";

test("a value is alive from the node that computes it to the last node that reads it", () => {
  const x = input([100]);
  const a = exp(x);
  const b = exp(a);
  // exp(x), exp(exp(x)) and their sum are alive at once. Each has 400 bytes.
  expect(workingBytes({ name: "g", inputs: { x }, outputs: { y: add(a, b) } })).toBe(1200);
  // Here exp(x) is freed before the third exp, which takes its buffer.
  expect(workingBytes({ name: "g", inputs: { x }, outputs: { y: exp(b) } })).toBe(800);
});

test("an output stays alive to the end", () => {
  const x = input([100]);
  const a = exp(x);
  expect(workingBytes({ name: "g", inputs: { x }, outputs: { a, y: exp(exp(a)) } })).toBe(1200);
});

test("a reshape takes no memory and keeps its input alive", () => {
  const x = input([100]);
  const viewed = reshape(exp(x), [10, 10]);
  expect(workingBytes({ name: "g", inputs: { x }, outputs: { y: exp(viewed) } })).toBe(800);
});

test("a buffer that a later value of the same shape takes is not freed in between", () => {
  const x = input([100]);
  const wide = (value: typeof x) => add(value, input([50, 100]));
  const narrow = (value: typeof x) => sum(value, [0]);
  // Two wide buffers of 20,000 bytes are alive at once nowhere: the second call takes the buffer of the first, which waits for it.
  const once = narrow(wide(x));
  const twice = narrow(wide(exp(once)));
  expect(workingBytes({ name: "g", inputs: { x }, outputs: { y: once } })).toBe(20_400);
  // The sum of the first call, its exp, and the buffer that waits; then the wide value in it and the last sum.
  expect(workingBytes({ name: "g", inputs: { x }, outputs: { y: twice } })).toBe(20_800);
});
