import { expect, test } from "vitest";
import { InputError, nearest } from "./index.js";

test("nearest finds a misspelled word and ignores case", () => {
  const rewards = ["aesthetic", "clip", "compressibility", "incompressibility"];
  expect(nearest("astetic", rewards)).toBe("aesthetic");
  expect(nearest("CLIP", rewards)).toBe("clip");
  expect(nearest("compresibilty", rewards)).toBe("compressibility");
});

test("nearest prefers the smaller distance, and the first of equals", () => {
  expect(nearest("rank", ["ranks!", "rank1"])).toBe("rank1");
  expect(nearest("rat", ["cat", "bat"])).toBe("cat");
});

test("nearest gives undefined when no candidate is near", () => {
  expect(nearest("bananas", ["aesthetic", "clip"])).toBeUndefined();
  expect(nearest("x", [])).toBeUndefined();
});

test("an InputError is an Error with a code, facts and a cause", () => {
  const cause = new Error("below");
  const error = new InputError("usage", "the message", { path: "a.txt" }, { cause });
  expect(error).toBeInstanceOf(Error);
  expect([error.name, error.code, error.message, error.facts, error.cause]).toEqual([
    "InputError",
    "usage",
    "the message",
    { path: "a.txt" },
    cause,
  ]);
});
