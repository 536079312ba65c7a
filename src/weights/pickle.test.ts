import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { dict, int, join, type Part, pickle, text, tuple } from "../../test/torch-file.js";
import { InputError } from "../errors/index.js";
import { Inert, type Maker, type PickleValue, Tuple, unpickle } from "./pickle.js";

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

function refusal(bytes: Uint8Array): string {
  try {
    load(bytes);
  } catch (error) {
    if (error instanceof InputError) return error.message;
    throw error;
  }
  throw new Error("was read");
}
const refusalOf = (...parts: Part[]) => refusal(pickle(...parts));

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

describe("what a pickle shares", () => {
  test("is shared here too, itself included", () => {
    // a = [a, b, b]
    const list = read("]q\x00(h\x00}q\x01h\x01e") as PickleValue[];
    expect(list[0]).toBe(list);
    expect(list[1]).toBe(list[2]);
  });

  test("is not unfolded: a list that 2^10,000 places hold", () => {
    expect(read("]", "2\x86".repeat(10_000))).toBeInstanceOf(Tuple);
  });

  test("is not unfolded: a tuple nested 10,000 times", () => {
    expect(read(")", "\x85".repeat(10_000))).toBeInstanceOf(Tuple);
  });
});

describe("an object of a class that is inert", () => {
  const settings = "charmless\nSettings\n";

  test("is a placeholder by any of the opcodes that make one", () => {
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

test("an id of something outside the pickle is the caller's to resolve", () => {
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
      "a STACK_GLOBAL put together in the memo",
      pickle(text("subprocess"), "\x940", text("Popen"), "q\x010h\x00h\x01\x93"),
      "subprocess.Popen",
    ],
    [
      "a STACK_GLOBAL by a dotted name",
      pickle(text("harmless"), text("Settings.__class__"), "\x93"),
      "harmless.Settings.__class__",
    ],
    ["an INST", pickle("(", shell, "ios\nsystem\n"), "os.system"],
    ["an OBJ", pickle("(cos\nsystem\n", shell, "o"), "os.system"],
    ["a NEWOBJ", pickle("cos\nsystem\n", tuple(shell), "\x81"), "os.system"],
    ["a NEWOBJ_EX", pickle("cos\nsystem\n", tuple(shell), "}\x92"), "os.system"],
    ["eval under its name in Python 2", pickle("c__builtin__\neval\n", tuple(shell), "R"), "builtins.eval"],
    ["what is only named", pickle("cos\nsystem\n0N"), "os.system"],
    ["what hides behind a harmless name", pickle("charmless\nSettings\n", tuple("cnt\nsystem\n"), "R"), "nt.system"],
    [
      "getattr on what may be named",
      pickle("cbuiltins\ngetattr\n", tuple("charmless\nSettings\n", text("mro")), "R"),
      "builtins.getattr",
    ],
    ["a name that objects inherit in JavaScript", pickle("c__proto__\nconstructor\n"), "__proto__.constructor"],
  ])("%s", (_, bytes, name) => {
    expect(refusal(bytes)).toContain(
      `file.pt: asks for ${name}, which is not among what weights are made of. Nothing was run`,
    );
  });

  test("a name with control characters, escaped", () => {
    expect(refusalOf("c\x1b[2J\nx\n")).toContain("asks for \\u001b[2J.x,");
  });
});

describe("refused is", () => {
  test.each<[string, Part[], RegExp]>([
    ["an opcode for names by number", ["\x82\x01"], /0x82 is no opcode/],
    ["a buffer from elsewhere", ["\x97"], /0x97 is no opcode/],
    ["calling plain data", [text("os.system"), ")R"], /calls what is no class or function/],
    ["calling a placeholder", ["charmless\nSettings\n)R)R"], /calls what is no class or function/],
    [
      "arguments that are no tuple",
      ["charmless\nSettings\n]R"],
      /calls harmless\.Settings without a list of arguments/,
    ],
    ["a name that is no text", [int(1), text("system"), "\x93"], /a name in it is no text/],
    ["attributes of a tuple", [")}b"], /sets attributes of plain data/],
    [
      "attributes of a class",
      ["charmless\nSettings\n", dict({ __setstate__: int(1) }), "b"],
      /sets attributes of plain data/,
    ],
    ["appending to a tuple", [")Na"], /appends to what is no list/],
    ["appending to a dict", ["}(Ne"], /appends to what is no list/],
    ["setting items of a list", ["]NNs"], /sets items of what is no dict/],
    ["adding to a list", ["](N\x90"], /adds to what is no set/],
    ["a key without a value", ["}(Nu"], /a key without a value/],
    ["an empty stack", ["0"], /takes more from its stack/],
    ["reaching below a mark", ["N(\x85"], /takes more from its stack/],
    ["a mark that is not there", ["t"], /a mark that is not there/],
    ["a memo that was never set", ["h\x07"], /asks for memo 7, which it never set/],
    ["a negative memo", ["Np-1\n"], /"-1" is no memo/],
    ["text longer than the file", ["X", Buffer.alloc(4, 0xff)], /4294967295 bytes are announced/],
    ["text of 2^64 bytes", ["\x8d", Buffer.alloc(8, 0xff)], /bytes are announced, 1 are left/],
    ["a whole number of 4 GiB", ["\x8b", Buffer.alloc(4, 0xff)], /a whole number of 4294967295 bytes/],
    ["a whole number of many digits", [`I${"9".repeat(1000)}\n`], /is no whole number/],
    ["what is no number", ["F0x10\n"], /"0x10" is no number/],
    ["text that is not UTF-8", ["\x8c\x01\xff"], /not UTF-8/],
    ["a line without end", ["cos"], /cut short inside a line/],
    ["a newer protocol", ["\x80\x06"], /newer protocol than 5/],
  ])("%s", (_, parts, message) => {
    expect(refusalOf(...parts)).toMatch(message);
  });

  test("what takes more steps than weights do, before it fills the memory", () => {
    expect(refusalOf("}".repeat(1_000_001))).toMatch(/more than 1000000 steps/);
    expect(refusalOf("(".repeat(1_000_001))).toMatch(/more than 1000000 steps/);
  });

  test("a pickle cut short anywhere", () => {
    const whole = Buffer.from(golden.plain["2"] as string, "base64");
    for (let length = 0; length < whole.length; length++) {
      expect(refusal(whole.subarray(0, length))).toMatch(/^file\.pt: cannot be read: .*Fetch it again/);
    }
  });
});
