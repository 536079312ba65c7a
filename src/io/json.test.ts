import { describe, expect, test } from "vitest";
import { z } from "zod";
import { inputError } from "../../test/errors.js";
import { checkJson, parseJson } from "./json.js";

describe("parseJson", () => {
  test("refuses text that is not JSON, with V8's reason on one line", () => {
    expect(() => parseJson('{\n"a": 1,\n}', "a.json")).toThrow(
      inputError("file-malformed", { path: "a.json", reason: expect.stringMatching(/^[^\n]*JSON[^\n]*$/) }),
    );
  });

  test("refuses brackets nested deeper than 100 levels, but does not count those in strings", () => {
    const nested = (depth: number) => `${"[".repeat(depth)}${"]".repeat(depth)}`;
    expect(() => parseJson(nested(100), "a.json")).not.toThrow();
    expect(() => parseJson(nested(101), "a.json")).toThrow(
      inputError("file-unsupported", { path: "a.json", limit: 100 }),
    );
    expect(parseJson(JSON.stringify(`"${nested(101)}`), "a.json")).toBe(`"${nested(101)}`);
  });
});

describe("checkJson", () => {
  const schema = z.object({
    blocks: z.array(z.enum(["Down", "Up"])),
    size: z.int(),
    nested: z.object({ on: z.literal(true) }).optional(),
  });

  test("gives the schema's output", () => {
    expect(checkJson(schema, { blocks: ["Up"], size: 1, other: 2 }, "a.json")).toEqual({ blocks: ["Up"], size: 1 });
  });

  test("lists every invalid key with the value found, the values supported and the nearest of them", () => {
    expect(() => checkJson(schema, { blocks: ["Up", "down"], nested: { on: 0 } }, "a.json", "config-invalid")).toThrow(
      inputError("config-invalid", {
        path: "a.json",
        count: 3,
        keys: ["blocks[1]", "size", "nested.on"],
        found: ['"down"', "missing", "0"],
        expected: ["Down, Up", expect.stringContaining("number"), "true"],
        suggestion: "Down",
      }),
    );
  });

  test("lists at most 10 problems and counts the rest", () => {
    expect(() => checkJson(schema, { blocks: Array(12).fill("x"), size: 1 }, "a.json")).toThrow(
      inputError("file-malformed", { count: 12, keys: Array.from({ length: 10 }, (_, i) => `blocks[${i}]`) }),
    );
  });

  test("says so when the whole file is not an object", () => {
    expect(() => checkJson(schema, null, "a.json")).toThrow(
      inputError("file-malformed", { keys: ["the file"], found: ["null"] }),
    );
  });
});

describe("the numbers that Python writes and JSON does not have", () => {
  test("are read, outside strings only", () => {
    const text = '{"a": -Infinity, "b": [Infinity, NaN, 1], "c": "NaN, \\"Infinity", "NaN": null}';
    expect(parseJson(text, "config.json")).toEqual({
      a: Number.NEGATIVE_INFINITY,
      b: [Number.POSITIVE_INFINITY, Number.NaN, 1],
      c: 'NaN, "Infinity',
      NaN: null,
    });
  });

  test.each(['{"a": -NaN}', '{"a": Infinite}', '{"a": NaN', "{a: NaN}"])(
    "are not a license for anything else: %s",
    (text) => {
      expect(() => parseJson(text, "config.json")).toThrow(inputError("file-malformed", { path: "config.json" }));
    },
  );
});
