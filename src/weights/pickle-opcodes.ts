/** The opcodes of pickles: https://docs.python.org/3/library/pickletools.html */
import { type PickleValue, Tuple } from "./pickle-values.js";
import type { Opcode } from "./unpickler.js";

/** Opcodes by their byte; undefined for those that are not supported. */
export const OPCODES: readonly (Opcode | undefined)[] = byCode({
  "\x80": (p) => p.requireProtocol(p.input.byte()), // PROTO
  "\x95": (p) => void p.input.uint64(), // FRAME: the number of bytes to read ahead
  ".": (p) => p.stop(),

  N: (p) => p.push(null),
  "\x88": (p) => p.push(true),
  "\x89": (p) => p.push(false),
  K: (p) => p.push(p.input.byte()), // BININT1
  M: (p) => p.push(p.input.uint16()), // BININT2
  J: (p) => p.push(p.input.int32()), // BININT
  "\x8a": (p) => p.push(p.input.integer(p.input.byte())), // LONG1
  "\x8b": (p) => p.push(p.input.integer(p.input.uint32())), // LONG4
  I: (p) => p.push(p.input.decimal()), // INT
  L: (p) => p.push(p.input.decimal()), // LONG
  G: (p) => p.push(p.input.float64()), // BINFLOAT
  F: (p) => p.push(p.input.decimalFloat()), // FLOAT

  "\x8c": (p) => p.push(p.input.text(p.input.byte())), // SHORT_BINUNICODE
  X: (p) => p.push(p.input.text(p.input.uint32())), // BINUNICODE
  "\x8d": (p) => p.push(p.input.text(p.input.uint64())), // BINUNICODE8
  V: (p) => p.push(p.input.latinText()), // UNICODE
  U: (p) => p.push(p.input.python2String(p.input.byte())), // SHORT_BINSTRING
  T: (p) => p.push(p.input.python2String(p.input.uint32())), // BINSTRING
  S: (p) => p.push(p.input.quotedText()), // STRING
  C: (p) => p.push(p.input.take(p.input.byte())), // SHORT_BINBYTES
  B: (p) => p.push(p.input.take(p.input.uint32())), // BINBYTES
  "\x8e": (p) => p.push(p.input.take(p.input.uint64())), // BINBYTES8
  "\x96": (p) => p.push(p.input.take(p.input.uint64())), // BYTEARRAY8

  "(": (p) => p.mark(),
  "0": (p) => p.drop(), // POP
  "1": (p) => void p.popToMark(), // POP_MARK
  "2": (p) => p.push(p.top()), // DUP

  ")": (p) => p.push(new Tuple([])),
  "\x85": (p) => p.push(new Tuple(p.popMany(1))),
  "\x86": (p) => p.push(new Tuple(p.popMany(2))),
  "\x87": (p) => p.push(new Tuple(p.popMany(3))),
  t: (p) => p.push(new Tuple(p.popToMark())),
  "]": (p) => p.push([]),
  l: (p) => p.push(p.popToMark()), // LIST
  a: (p) => {
    const item = p.pop();
    p.append(p.top(), [item]);
  },
  e: (p) => {
    const items = p.popToMark();
    p.append(p.top(), items);
  },
  "}": (p) => p.push(new Map()),
  d: (p) => {
    // DICT
    const items = p.popToMark();
    p.push(new Map());
    p.setItems(p.top(), items);
  },
  s: (p) => {
    const item = p.popMany(2);
    p.setItems(p.top(), item);
  },
  u: (p) => {
    const items = p.popToMark();
    p.setItems(p.top(), items);
  },
  "\x8f": (p) => p.push(new Set()),
  "\x90": (p) => {
    // ADDITEMS
    const items = p.popToMark();
    p.add(p.top(), items);
  },
  "\x91": (p) => p.push(new Set(p.popToMark())), // FROZENSET

  p: (p) => p.put(p.input.memoIndex()),
  q: (p) => p.put(p.input.byte()),
  r: (p) => p.put(p.input.uint32()),
  "\x94": (p) => p.put(p.memo.size), // MEMOIZE
  g: (p) => p.get(p.input.memoIndex()),
  h: (p) => p.get(p.input.byte()),
  j: (p) => p.get(p.input.uint32()),

  c: (p) => p.push(p.name(p.input.line(), p.input.line())), // GLOBAL
  "\x93": (p) => {
    // STACK_GLOBAL
    const [module, attribute] = p.popMany(2) as [PickleValue, PickleValue];
    p.push(p.name(module, attribute));
  },
  R: (p) => {
    // REDUCE
    const [callee, args] = p.popMany(2) as [PickleValue, PickleValue];
    p.call(callee, args);
  },
  "\x81": (p) => {
    // NEWOBJ
    const [className, args] = p.popMany(2) as [PickleValue, PickleValue];
    p.call(className, args);
  },
  "\x92": (p) => {
    // NEWOBJ_EX: the third operand holds keyword arguments, which no maker takes
    const [className, args] = p.popMany(3) as [PickleValue, PickleValue, PickleValue];
    p.call(className, args);
  },
  i: (p) => {
    // INST
    const className = p.name(p.input.line(), p.input.line());
    p.call(className, new Tuple(p.popToMark()));
  },
  o: (p) => {
    // OBJ
    const [className, ...args] = p.popToMark();
    p.call(className ?? null, new Tuple(args));
  },
  b: (p) => p.build(),
  P: (p) => p.persistent(p.input.line()),
  Q: (p) => p.persistent(p.pop()),
});

function byCode(opcodes: Readonly<Record<string, Opcode>>): (Opcode | undefined)[] {
  const table = new Array<Opcode | undefined>(256);
  for (const [character, opcode] of Object.entries(opcodes)) table[character.charCodeAt(0)] = opcode;
  return table;
}
