import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { dict, int, join, type Part, pickle, text, tuple } from "../../test/torch-file.js";
import type { ErrorCode, ErrorFacts } from "../errors/index.js";
import { unpickle } from "./pickle.js";
import { Inert, type PickleValue, Tuple } from "./pickle-values.js";
import type { Maker } from "./unpickler.js";

const golden = JSON.parse(readFileSync(new URL("../../test/goldens/pytorch/golden.json", import.meta.url), "utf8")) as {
  plain: Record<string, string>;
};

const makeSet: Maker = ([items]) => new Set(items as PickleValue[]);
const makeBytes: Maker = ([characters]) => Buffer.from(characters as string, "latin1");
const names = new Map<string, "inert" | Maker>([
  ["builtins.set", makeSet],
  ["_codecs.encode", makeBytes],
  ["harmless.Settings", "inert"],
]);

const load = (bytes: Uint8Array) =>
  unpickle(bytes, { where: "file.pt", names, persistent: (id) => ({ outside: id }) }).value;
const read = (...parts: Part[]) => load(pickle(...parts));

/** The pickle must be refused with these facts. */
function expectRefused(bytes: Uint8Array, facts: ErrorFacts, code: ErrorCode = "file-malformed"): void {
  expect(() => load(bytes)).toThrow(inputError(code, { path: "file.pt", ...facts }));
}

test.each(Object.entries(golden.plain))("plain values in protocol %s are what Python pickled", (_, base64) => {
  const value = load(Buffer.from(base64, "base64")) as Map<string, PickleValue>;
  expect(Object.fromEntries([...value].filter(([key]) => key !== "bytes"))).toEqual({
    none: null,
    booleans: [true, false],
    integers: [0, 255, 65535, -1, 2 ** 31, -(2 ** 40), 2n ** 70n, -(2n ** 70n)],
    floats: [0.1, -1e300, Number.POSITIVE_INFINITY, Number.NaN],
    text: "wéight 猫 🐈\nline",
    tuples: new Tuple([
      new Tuple([]),
      new Tuple([1]),
      new Tuple([1, 2]),
      new Tuple([1, 2, 3]),
      new Tuple([1, 2, 3, 4]),
    ]),
    set: new Set([1, 2]),
    dict: new Map<PickleValue, PickleValue>([
      ["a", new Map()],
      [3, []],
    ]),
  });
  expect([...(value.get("bytes") as Uint8Array)]).toEqual([0, 255]);
});

describe("a shared value", () => {
  test("stays shared, even if it contains itself", () => {
    // a = [a, b, b]
    const list = read("]q\x00(h\x00}q\x01h\x01e") as PickleValue[];
    expect(list[0]).toBe(list);
    expect(list[1]).toBe(list[2]);
  });

  test("is not unfolded: a list that occurs 2^10,000 times", () => {
    expect(read("]", "2\x86".repeat(10_000))).toBeInstanceOf(Tuple);
  });

  test("is not unfolded: a tuple nested 10,000 times", () => {
    expect(read(")", "\x85".repeat(10_000))).toBeInstanceOf(Tuple);
  });
});

describe("an object of an inert class", () => {
  const settings = "charmless\nSettings\n";

  test("is a placeholder, whichever opcode makes it", () => {
    const made = [
      [settings, ")R"],
      [settings, ")\x81"],
      [settings, ")}\x92"],
      [text("harmless"), text("Settings"), "\x93)R"],
      ["(iharmless\nSettings\n"],
      ["(", settings, "o"],
    ];
    for (const parts of made) expect(read(...parts)).toEqual(new Inert("harmless.Settings"));
  });

  test("drops attributes, items and elements", () => {
    const filled = [settings, ")R", dict({ a: int(1) }), "b", text("k"), int(1), "s", int(2), "a", "(", int(3), "\x90"];
    expect(read(...filled)).toEqual(new Inert("harmless.Settings"));
  });
});

test("an id of an object outside the pickle is resolved by the caller", () => {
  expect(read(tuple(text("storage"), int(7)), "Q")).toEqual({ outside: new Tuple(["storage", 7]) });
});

test("a pickle ends at its STOP, and the next may follow", () => {
  const two = join(pickle(int(1)), pickle(int(2)));
  const options = { where: "two", names, persistent: () => null };
  const first = unpickle(two, options);
  expect([first.value, unpickle(two, options, first.end).value]).toEqual([1, 2]);
});

describe("refused by its name, and not called, is", () => {
  const shell = text("touch canary");
  test.each<[string, Uint8Array, string]>([
    ["a GLOBAL", pickle("cos\nsystem\n", tuple(shell), "R"), "os.system"],
    ["a GLOBAL of protocol 0", join("cposix\nsystem\n(S'touch canary'\ntR."), "posix.system"],
    ["a STACK_GLOBAL", pickle(text("os"), text("system"), "\x93", tuple(shell), "R"), "os.system"],
    [
      "a STACK_GLOBAL assembled from the memo",
      pickle(text("subprocess"), "\x940", text("Popen"), "q\x010h\x00h\x01\x93"),
      "subprocess.Popen",
    ],
    [
      "a STACK_GLOBAL with a dotted name",
      pickle(text("harmless"), text("Settings.__class__"), "\x93"),
      "harmless.Settings.__class__",
    ],
    ["an INST", pickle("(", shell, "ios\nsystem\n"), "os.system"],
    ["an OBJ", pickle("(cos\nsystem\n", shell, "o"), "os.system"],
    ["a NEWOBJ", pickle("cos\nsystem\n", tuple(shell), "\x81"), "os.system"],
    ["a NEWOBJ_EX", pickle("cos\nsystem\n", tuple(shell), "}\x92"), "os.system"],
    ["eval under its name in Python 2", pickle("c__builtin__\neval\n", tuple(shell), "R"), "builtins.eval"],
    ["a name that is never called", pickle("cos\nsystem\n0N"), "os.system"],
    ["a name after a harmless one", pickle("charmless\nSettings\n", tuple("cnt\nsystem\n"), "R"), "nt.system"],
    [
      "getattr on an allowed name",
      pickle("cbuiltins\ngetattr\n", tuple("charmless\nSettings\n", text("mro")), "R"),
      "builtins.getattr",
    ],
    ["a name that objects inherit in JavaScript", pickle("c__proto__\nconstructor\n"), "__proto__.constructor"],
  ])("%s", (_, bytes, name) => expectRefused(bytes, { name }, "file-unsupported"));

  test("a name with control characters, which the message escapes", () => {
    const bytes = pickle("c\x1b[2J\nx\n");
    expectRefused(bytes, { name: "\u001b[2J.x" }, "file-unsupported");
    expect(() => load(bytes)).toThrow("\\u001b[2J.x");
  });
});

const callable = "class or function";

describe("refused is", () => {
  test.each<[string, Part[], ErrorFacts]>([
    ["an opcode for names by number", ["\x82\x01"], { opcode: 0x82 }],
    ["a buffer from elsewhere", ["\x97"], { opcode: 0x97 }],
    ["calling plain data", [text("os.system"), ")R"], { expected: callable, found: "str" }],
    ["calling a placeholder", ["charmless\nSettings\n)R)R"], { expected: callable, found: "harmless.Settings" }],
    ["arguments that are not a tuple", ["charmless\nSettings\n]R"], { expected: "tuple", found: "list" }],
    ["a name that is not a string", [int(1), text("system"), "\x93"], { expected: "str", found: "number" }],
    ["attributes of a tuple", [")}b"], { expected: "object or dict", found: "tuple" }],
    [
      "attributes of a class",
      ["charmless\nSettings\n", dict({ __setstate__: int(1) }), "b"],
      { expected: "object or dict", found: callable },
    ],
    ["appending to a tuple", [")Na"], { expected: "list", found: "tuple" }],
    ["appending to a dict", ["}(Ne"], { expected: "list", found: "dict" }],
    ["setting items of a list", ["]NNs"], { expected: "dict", found: "list" }],
    ["adding to a list", ["](N\x90"], { expected: "set", found: "list" }],
    ["a key without a value", ["}(Nu"], { expected: "value", found: "nothing" }],
    ["an empty stack", ["0"], { expected: 1, found: 0 }],
    ["reaching below a mark", ["N(\x85"], { expected: 1, found: 0 }],
    ["a mark that was never set", ["t"], { expected: "mark" }],
    ["a memo that was never set", ["h\x07"], { memo: 7 }],
    ["a negative memo", ["Np-1\n"], { expected: "memo index", found: "-1" }],
    ["text longer than the file", ["X", Buffer.alloc(4, 0xff)], { expected: 4294967295, found: 1 }],
    ["text of 2^64 bytes", ["\x8d", Buffer.alloc(8, 0xff)], { expected: 2 ** 64, found: 1 }],
    ["an integer of 4 GiB", ["\x8b", Buffer.alloc(4, 0xff)], { found: 4294967295, expected: 255 }],
    [
      "an integer of many digits",
      [`I${"9".repeat(1000)}\n`],
      { expected: "integer", found: expect.stringMatching(/^"9{100}/) },
    ],
    ["a float that is not a number", ["F0x10\n"], { expected: "number", found: '"0x10"' }],
    ["text that is not UTF-8", ["\x8c\x01\xff"], { expected: "UTF-8" }],
    ["a line without end", ["cos"], { expected: "end of line" }],
    ["a newer protocol", ["\x80\x06"], { found: 6, expected: 5 }],
  ])("%s", (_, parts, facts) => expectRefused(pickle(...parts), facts));

  test("a pickle with more steps than weights need, before it fills the memory", () => {
    expectRefused(pickle("}".repeat(1_000_001)), { expected: 1_000_000 });
    expectRefused(pickle("(".repeat(1_000_001)), { expected: 1_000_000 });
  });

  test("a pickle truncated anywhere", () => {
    const whole = Buffer.from(golden.plain["2"] as string, "base64");
    for (let length = 0; length < whole.length; length++) expectRefused(whole.subarray(0, length), {});
  });
});
