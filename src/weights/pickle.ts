/**
 * A reader of Python's pickles that builds plain data and nothing else.
 *
 * A pickle is a program for a small stack machine, and some of its opcodes call whatever function the pickle names. Here
 * there is nothing to call: a name that the caller does not list is refused, one that it lists stands for a piece of
 * TypeScript or for inert data. https://docs.python.org/3/library/pickletools.html lists the opcodes; these are those of
 * protocols 0 to 5.
 *
 * Bounds: each opcode adds at most one object, and what costs more than a step is charged for what it costs, so
 * MOST_STEPS bounds time, stack, memo and nesting alike. Nothing here recurses. Sharing (a list that holds itself a
 * million times over) costs nothing, as values are never copied or unfolded.
 */
import { InputError, quote } from "../errors/index.js";

/**
 * Python's list is an array, dict a Map, set a Set, tuple a Tuple, bytes a Uint8Array, a class or function a PickledName.
 * Other objects are Inert, or what the caller's own makers made.
 */
export type PickleValue = null | boolean | number | bigint | string | object;

export class Tuple {
  constructor(readonly items: readonly PickleValue[]) {}
}

/** A class or function that the pickle names; only that it may be named is known of it. */
export class PickledName {
  constructor(readonly name: string) {}
}

/** An object of a harmless class that nothing here needs; what it held is dropped. */
export class Inert {
  constructor(readonly className: string) {}
}

export interface PickleContext {
  /** Refuses the file. */
  fail(reason: string): never;
  /** Pays for work beyond one step an opcode, such as copying `steps` elements. */
  charge(steps: number): void;
}

export type Maker = (args: readonly PickleValue[], context: PickleContext) => PickleValue;

export interface PickleOptions {
  /** What messages call the pickle, such as its file. */
  readonly where: string;
  /** Every name that the pickle may use. "inert": its objects are Inert. A maker: what calling it gives. */
  readonly names: ReadonlyMap<string, "inert" | Maker>;
  /** What an id of an object outside the pickle stands for. */
  persistent(id: PickleValue, context: PickleContext): PickleValue;
}

/** Some 35 to a tensor: Stable Diffusion with its average and optimizer state takes fewer than 200,000. */
const MOST_STEPS = 1_000_000;
/** Python's whole numbers have no bound; random generators' states, the longest around, take 17 bytes. */
const MOST_INTEGER_BYTES = 255;

/** Reads the pickle that begins at `start`; `end` is where the next one may. */
export function unpickle(bytes: Uint8Array, options: PickleOptions, start = 0): { value: PickleValue; end: number } {
  return new Unpickler(bytes, options, start).run();
}

class Unpickler implements PickleContext {
  readonly stack: PickleValue[] = [];
  readonly memo = new Map<number, PickleValue>();
  /** Heights of the stack at the open marks. */
  private readonly marks: number[] = [];
  private readonly view: DataView;
  private at: number;
  private steps = 0;
  private running = true;

  constructor(
    private readonly bytes: Uint8Array,
    private readonly options: PickleOptions,
    start: number,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = start;
  }

  run(): { value: PickleValue; end: number } {
    while (this.running) {
      const code = this.byte();
      const opcode = OPCODES[code];
      if (!opcode) this.fail(`0x${code.toString(16).padStart(2, "0")} is no opcode that weights have`);
      this.charge(1);
      opcode(this);
    }
    return { value: this.pop(), end: this.at };
  }

  stop(): void {
    this.running = false;
  }

  fail(reason: string): never {
    throw new InputError(
      "file-malformed",
      `${this.options.where}: cannot be read: ${reason} (at byte ${this.at} of its pickle). Is it the right file, and whole? Fetch it again, or save its state_dict as safetensors.`,
    );
  }

  charge(steps: number): void {
    this.steps += steps;
    if (this.steps > MOST_STEPS) this.fail(`it takes more than ${MOST_STEPS} steps, far more than weights need`);
  }

  // The stack.

  push(value: PickleValue): void {
    this.stack.push(value);
  }

  /** Values below the last mark belong to whoever set it. */
  private need(count: number): void {
    if (this.stack.length - (this.marks.at(-1) ?? 0) < count) this.fail("it takes more from its stack than lies there");
  }

  pop(): PickleValue {
    this.need(1);
    return this.stack.pop() as PickleValue;
  }

  popMany(count: number): PickleValue[] {
    this.need(count);
    return this.stack.splice(this.stack.length - count);
  }

  top(): PickleValue {
    this.need(1);
    return this.stack[this.stack.length - 1] as PickleValue;
  }

  mark(): void {
    this.marks.push(this.stack.length);
  }

  popToMark(): PickleValue[] {
    const mark = this.marks.pop();
    if (mark === undefined) this.fail("it goes back to a mark that is not there");
    return this.stack.splice(mark);
  }

  /** POP takes a value, or a mark where one was set last. */
  drop(): void {
    if (this.marks.at(-1) === this.stack.length) this.marks.pop();
    else this.pop();
  }

  // The memo.

  put(index: number): void {
    this.memo.set(index, this.top());
  }

  get(index: number): void {
    const value = this.memo.get(index);
    if (value === undefined) this.fail(`it asks for memo ${index}, which it never set`);
    this.push(value);
  }

  // Bytes.

  take(length: number): Uint8Array {
    const left = this.bytes.length - this.at;
    if (!(length <= left)) this.fail(`it is cut short: ${length} bytes are announced, ${left} are left`);
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  byte(): number {
    return this.take(1)[0] as number;
  }

  uint16(): number {
    this.take(2);
    return this.view.getUint16(this.at - 2, true);
  }

  int32(): number {
    this.take(4);
    return this.view.getInt32(this.at - 4, true);
  }

  uint32(): number {
    this.take(4);
    return this.view.getUint32(this.at - 4, true);
  }

  /** A length; those beyond 2^53 lose their last digits, and no file is so long. */
  uint64(): number {
    this.take(8);
    return Number(this.view.getBigUint64(this.at - 8, true));
  }

  float64(): number {
    this.take(8);
    return this.view.getFloat64(this.at - 8);
  }

  line(): string {
    return decodeUtf8(this.lineBytes()) ?? this.fail("it has text that is not UTF-8");
  }

  private lineBytes(): Uint8Array {
    const end = this.bytes.indexOf(0x0a, this.at);
    if (end < 0) this.fail("it is cut short inside a line");
    return this.take(end + 1 - this.at).subarray(0, -1);
  }

  text(length: number): string {
    return decodeUtf8(this.take(length)) ?? this.fail("it has text that is not UTF-8");
  }

  /** A byte string of Python 2, which most often is text. */
  oldString(length: number): string | Uint8Array {
    const bytes = this.take(length);
    return decodeUtf8(bytes) ?? bytes;
  }

  /** Two's complement, little-endian. */
  integer(length: number): number | bigint {
    if (length > MOST_INTEGER_BYTES) this.fail(`it has a whole number of ${length} bytes`);
    if (length === 0) return 0;
    const digits = Buffer.from(this.take(length)).reverse().toString("hex");
    return simplest(BigInt.asIntN(8 * length, BigInt(`0x${digits}`)));
  }

  /** A whole number in a line of its own; 00 and 01 are Python's booleans before protocol 2. */
  decimal(): number | bigint | boolean {
    const line = this.line();
    if (line === "00" || line === "01") return line === "01";
    const digits = line.replace(/L$/, "");
    if (!/^-?\d{1,600}$/.test(digits)) this.fail(`${quote(line)} is no whole number`);
    return simplest(BigInt(digits));
  }

  decimalFloat(): number {
    const line = this.line();
    if (!/^([+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|-?inf|nan)$/i.test(line)) this.fail(`${quote(line)} is no number`);
    return Number(line.replace(/inf/i, "Infinity"));
  }

  /** Protocol 0's text: Latin-1, and what that lacks as \\u and four digits or \\U and eight. */
  latinText(): string {
    const line = Buffer.from(this.lineBytes()).toString("latin1");
    return line.replace(/\\u([0-9a-fA-F]{4})|\\U00([0-9a-fA-F]{6})/g, (_, short?: string, long?: string) => {
      const codePoint = Number.parseInt(short ?? long ?? "", 16);
      return codePoint > 0x10ffff ? this.fail("it has text that is not Unicode") : String.fromCodePoint(codePoint);
    });
  }

  /** A byte string of Python 2 in protocol 0. Names and versions need none of its escapes. */
  quotedText(): string {
    const [, , text = ""] = /^(['"])(.*)\1$/.exec(this.line()) ?? this.fail("it has text without quotes");
    return text.includes("\\") ? this.fail("it has text with escapes; save it with protocol 2") : text;
  }

  memoIndex(): number {
    const index = this.decimal();
    return typeof index === "number" && index >= 0 ? index : this.fail(`${quote(String(index))} is no memo`);
  }

  // Objects.

  name(module: PickleValue, attribute: PickleValue): PickledName {
    if (typeof module !== "string" || typeof attribute !== "string") this.fail("a name in it is no text");
    // Python 2's name of the module, which every protocol before 3 writes.
    const name = `${module === "__builtin__" ? "builtins" : module}.${attribute}`;
    if (!this.options.names.has(name)) {
      throw new InputError(
        "file-malformed",
        `${this.options.where}: asks for ${quote(name).slice(1, -1)}, which is not among what weights are made of. Nothing was run: only tensors and plain containers are read. If you trust the file's source, load it in PyTorch and save its state_dict as safetensors; otherwise get the weights elsewhere.`,
      );
    }
    return new PickledName(name);
  }

  call(callee: PickleValue, args: PickleValue): void {
    if (!(callee instanceof PickledName)) this.fail("it calls what is no class or function");
    if (!(args instanceof Tuple)) this.fail(`it calls ${callee.name} without a list of arguments`);
    const maker = this.options.names.get(callee.name);
    this.push(typeof maker === "function" ? maker(args.items, this) : new Inert(callee.name));
  }

  append(target: PickleValue, items: readonly PickleValue[]): void {
    if (Array.isArray(target)) for (const item of items) target.push(item);
    else if (!(target instanceof Inert)) this.fail("it appends to what is no list");
  }

  add(target: PickleValue, items: readonly PickleValue[]): void {
    if (target instanceof Set) for (const item of items) target.add(item);
    else if (!(target instanceof Inert)) this.fail("it adds to what is no set");
  }

  setItems(target: PickleValue, items: readonly PickleValue[]): void {
    if (items.length % 2 !== 0) this.fail("a dict in it has a key without a value");
    if (target instanceof Map) {
      for (let i = 0; i < items.length; i += 2) target.set(items[i], items[i + 1]);
    } else if (!(target instanceof Inert)) this.fail("it sets items of what is no dict");
  }

  /** An object's attributes. Dicts have some too: PyTorch's state_dict carries versions of its modules as `_metadata`. */
  build(): void {
    this.pop();
    const target = this.top();
    if (!(target instanceof Inert || target instanceof Map)) this.fail("it sets attributes of plain data");
  }

  persistent(id: PickleValue): void {
    this.push(this.options.persistent(id, this));
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function decodeUtf8(bytes: Uint8Array): string | undefined {
  try {
    return utf8.decode(bytes);
  } catch {
    return undefined;
  }
}

function simplest(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

type Opcode = (pickle: Unpickler) => void;

const OPCODES: readonly (Opcode | undefined)[] = byCode({
  "\x80": (p) => p.byte() > 5 && p.fail("it is of a newer protocol than 5"), // PROTO
  "\x95": (p) => void p.uint64(), // FRAME: how much to read ahead
  ".": (p) => p.stop(),

  N: (p) => p.push(null),
  "\x88": (p) => p.push(true),
  "\x89": (p) => p.push(false),
  K: (p) => p.push(p.byte()), // BININT1
  M: (p) => p.push(p.uint16()), // BININT2
  J: (p) => p.push(p.int32()), // BININT
  "\x8a": (p) => p.push(p.integer(p.byte())), // LONG1
  "\x8b": (p) => p.push(p.integer(p.uint32())), // LONG4
  I: (p) => p.push(p.decimal()), // INT
  L: (p) => p.push(p.decimal()), // LONG
  G: (p) => p.push(p.float64()), // BINFLOAT
  F: (p) => p.push(p.decimalFloat()), // FLOAT

  "\x8c": (p) => p.push(p.text(p.byte())), // SHORT_BINUNICODE
  X: (p) => p.push(p.text(p.uint32())), // BINUNICODE
  "\x8d": (p) => p.push(p.text(p.uint64())), // BINUNICODE8
  V: (p) => p.push(p.latinText()), // UNICODE
  U: (p) => p.push(p.oldString(p.byte())), // SHORT_BINSTRING
  T: (p) => p.push(p.oldString(p.uint32())), // BINSTRING
  S: (p) => p.push(p.quotedText()), // STRING
  C: (p) => p.push(p.take(p.byte())), // SHORT_BINBYTES
  B: (p) => p.push(p.take(p.uint32())), // BINBYTES
  "\x8e": (p) => p.push(p.take(p.uint64())), // BINBYTES8
  "\x96": (p) => p.push(p.take(p.uint64())), // BYTEARRAY8

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

  p: (p) => p.put(p.memoIndex()),
  q: (p) => p.put(p.byte()),
  r: (p) => p.put(p.uint32()),
  "\x94": (p) => p.put(p.memo.size), // MEMOIZE
  g: (p) => p.get(p.memoIndex()),
  h: (p) => p.get(p.byte()),
  j: (p) => p.get(p.uint32()),

  c: (p) => p.push(p.name(p.line(), p.line())), // GLOBAL
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
    // NEWOBJ_EX: a third operand names arguments, which no maker takes
    const [className, args] = p.popMany(3) as [PickleValue, PickleValue, PickleValue];
    p.call(className, args);
  },
  i: (p) => {
    // INST
    const className = p.name(p.line(), p.line());
    p.call(className, new Tuple(p.popToMark()));
  },
  o: (p) => {
    // OBJ
    const [className, ...args] = p.popToMark();
    p.call(className ?? null, new Tuple(args));
  },
  b: (p) => p.build(),
  P: (p) => p.persistent(p.line()),
  Q: (p) => p.persistent(p.pop()),
});

function byCode(opcodes: Readonly<Record<string, Opcode>>): (Opcode | undefined)[] {
  const table = new Array<Opcode | undefined>(256);
  for (const [character, opcode] of Object.entries(opcodes)) table[character.charCodeAt(0)] = opcode;
  return table;
}
