import type { Rng } from "../../src/tensor/rng.js";
import { int, join as joinParts, type Part, text, tuple, uint32 } from "../torch-file.js";

/** Values that are likely to break lengths, offsets and counts. */
const LENGTHS = [0, 1, 2, 7, 8, 127, 128, 255, 256, 2 ** 15, 2 ** 16 - 1, 2 ** 24, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1];

/**
 * Makes one to three edits: flips a bit, changes a byte or a length, removes, repeats or moves a piece, inserts one of `others`, or
 * cuts off the end.
 */
export function mutateBytes(bytes: Uint8Array, rng: Rng, others: readonly Part[]): Buffer {
  let mutant: Buffer = Buffer.from(bytes);
  for (let edits = rng.integer(1, 3); edits > 0; edits--) mutant = editBytes(mutant, rng, others);
  return mutant;
}

function editBytes(bytes: Buffer, rng: Rng, others: readonly Part[]): Buffer {
  const at = rng.integer(0, Math.max(0, bytes.length - 1));
  const end = Math.min(bytes.length, at + rng.integer(1, 16));
  const splice = (middle: Part, from = at, to = at) => joinParts(bytes.subarray(0, from), middle, bytes.subarray(to));
  switch (rng.integer(0, 8)) {
    case 0:
      return splice(Buffer.of((bytes[at] ?? 0) ^ (1 << rng.integer(0, 7))), at, at + 1);
    case 1:
      return splice(Buffer.of(rng.integer(0, 255)), at, at + 1);
    case 2:
      return splice("", at, end);
    case 3:
      return splice(bytes.subarray(at, end));
    case 4: {
      const to = rng.integer(0, bytes.length);
      return splice(bytes.subarray(at, end), to, to);
    }
    case 5:
      return splice(rng.choice(others), at, rng.uniform() < 0.5 ? at : end);
    case 6:
      return splice(uint32(rng.choice(LENGTHS)), at, at + 4);
    case 7: {
      const wide = Buffer.alloc(8);
      wide.writeBigUInt64LE(BigInt.asUintN(64, BigInt(rng.choice(LENGTHS)) << BigInt(rng.choice([0, 16, 31, 32]))));
      return splice(wide, at, at + 8);
    }
    default:
      return bytes.subarray(0, at);
  }
}

/** JSON that JSON.stringify does not write, or that has unexpected values. */
const ODD_JSON = [
  "0",
  "-1",
  "-0",
  "1.5",
  "1e309",
  "9007199254740993",
  "1e-320",
  "2147483648",
  "null",
  "true",
  "false",
  '""',
  '"\\u0000"',
  '"\\ud800"',
  '"../x"',
  '"__proto__"',
  '"constructor"',
  "[]",
  "{}",
  "[[]]",
  "[null]",
  '{"__proto__":{"x":1}}',
  "[".repeat(10_000) + "]".repeat(10_000),
  `[${"0,".repeat(2000)}0]`,
  `"${"x".repeat(5000)}"`,
];

/** Replaces, removes, repeats or renames some values inside `value`. In one case of four it also damages the JSON string. */
export function mutateJson(value: unknown, rng: Rng): string {
  // Markers stand for odd values until the rest is a string.
  const mutant = structuredClone({ root: value });
  for (let edits = rng.integer(1, 3); edits > 0; edits--) editJson(mutant, rng);
  const json = (JSON.stringify(mutant.root) ?? "null").replace(
    /"@odd (\d+)@"/g,
    (_, i) => ODD_JSON[Number(i)] as string,
  );
  return rng.uniform() < 0.75 ? json : mutateBytes(Buffer.from(json), rng, ODD_JSON).toString("latin1");
}

type Holder = Record<string, unknown> | unknown[];

function editJson(root: Holder, rng: Rng): void {
  let holder = root;
  let key = "root";
  // Descend to a random value.
  for (;;) {
    const inner = (holder as Record<string, unknown>)[key];
    const keys = typeof inner === "object" && inner !== null ? Object.keys(inner) : [];
    if (keys.length === 0 || rng.uniform() < 0.15) break;
    holder = inner as Holder;
    key = rng.choice(keys);
  }
  const place = holder as Record<string, unknown>;
  switch (rng.integer(0, 5)) {
    case 0:
      if (Array.isArray(holder)) holder.splice(Number(key), 1);
      else if (holder !== root) delete place[key];
      return;
    case 1:
      if (Array.isArray(holder)) holder.push(place[key]);
      else if (holder !== root) place[`${key}${rng.integer(0, 9)}`] = place[key];
      return;
    case 2: {
      const other = rng.choice(Object.keys(holder));
      [place[key], place[other]] = [place[other], place[key]];
      return;
    }
    case 3:
      if (typeof place[key] === "number") {
        place[key] = (place[key] as number) * rng.choice([-1, 0.5, 2, 3, 1000]) + rng.integer(-1, 1);
        return;
      }
  }
  place[key] = `@odd ${rng.integer(0, ODD_JSON.length - 1)}@`;
}

/** Bytes after each opcode. -1 and -2 mean one and two lines; "1", "4" and "8" mean a length of so many bytes and then the data. */
const OPERANDS: Readonly<Record<string, number | "1" | "4" | "8">> = {
  "\x80": 1,
  "\x95": 8,
  K: 1,
  M: 2,
  J: 4,
  G: 8,
  q: 1,
  r: 4,
  h: 1,
  j: 4,
  c: -2,
  i: -2,
  I: -1,
  L: -1,
  F: -1,
  S: -1,
  V: -1,
  P: -1,
  p: -1,
  g: -1,
  "\x8a": "1",
  "\x8c": "1",
  U: "1",
  C: "1",
  "\x8b": "4",
  X: "4",
  T: "4",
  B: "4",
  "\x8d": "8",
  "\x8e": "8",
  "\x96": "8",
};

/** Splits a pickle into opcodes, each with its operand. */
export function opcodesOf(pickle: Buffer): Buffer[] {
  const opcodes: Buffer[] = [];
  for (let at = 0; at < pickle.length; ) {
    const operand = OPERANDS[String.fromCharCode(pickle[at] as number)] ?? 0;
    let end = at + 1;
    if (typeof operand === "string") end += Number(operand) + pickle.readUIntLE(end, Math.min(6, Number(operand)));
    else if (operand >= 0) end += operand;
    else for (let line = operand; line < 0; line++) end = pickle.indexOf(0x0a, end) + 1;
    opcodes.push(pickle.subarray(at, end));
    at = end;
  }
  return opcodes;
}

const NAMES = [
  "os\nsystem",
  "torch._utils\n_rebuild_tensor_v2",
  "torch\nHalfStorage",
  "collections\nOrderedDict",
  "_codecs\nencode",
];
const ODD_OPCODES: readonly Part[] = [
  ...[..."().0123NRQabdelostu]}\x81\x82\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98"],
  ...NAMES.flatMap((name) => [`c${name}\n`, `(i${name}\n`, `c${name}\n)R`]),
  ...[0, 1, -1, 3, 2 ** 31, -(2 ** 31), 2 ** 53, 2 ** 62].map(int),
  ...[0, 1, 2, 5, 255].flatMap((index) => [`h${String.fromCharCode(index)}`, `q${String.fromCharCode(index)}`]),
  ...["", "0", "storage", "state_dict", "latin1"].map(text),
  tuple(int(2), int(3)),
  ")",
  "\x8b\xff\xff\xff\xff",
  "\x8b\xff\xff\xff\x7f",
  "X\xff\xff\xff\xff",
  "\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
  "G\x7f\xf8\x00\x00\x00\x00\x00\x00",
  "2\x86".repeat(100),
  "(".repeat(1000),
  "]".repeat(1000),
];

/** Removes, repeats, exchanges, copies or inserts one to four opcodes. */
export function mutatePickle(opcodes: readonly Buffer[], rng: Rng): Buffer {
  const mutant: Part[] = [...opcodes];
  for (let edits = rng.integer(1, 4); edits > 0; edits--) {
    const at = rng.integer(0, mutant.length - 1);
    const other = rng.integer(0, mutant.length - 1);
    switch (rng.integer(0, 5)) {
      case 0:
        mutant.splice(at, rng.integer(1, 3));
        break;
      case 1:
        mutant.splice(at, 0, mutant[at] as Part);
        break;
      case 2:
        [mutant[at], mutant[other]] = [mutant[other] as Part, mutant[at] as Part];
        break;
      case 3:
        mutant[at] = mutant[other] as Part;
        break;
      case 4:
        mutant[at] = rng.choice(ODD_OPCODES);
        break;
      default:
        mutant.splice(at, 0, rng.choice(ODD_OPCODES));
    }
    if (mutant.length === 0) break;
  }
  return joinParts(...mutant);
}
