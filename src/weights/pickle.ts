/**
 * A reader of Python's pickles that builds plain data and nothing else.
 *
 * A pickle is a program for a small stack machine, and some of its opcodes call any function that the pickle names.
 * Here there is nothing to call: a name that the caller does not list is refused, and a name that it lists stands for a
 * TypeScript function or for inert data. The opcodes are those of protocols 0 to 5, as listed in
 * https://docs.python.org/3/library/pickletools.html
 *
 * Bounds: each opcode adds at most one object, and work beyond one step is charged for, so MAX_STEPS bounds time,
 * stack, memo and nesting alike. Nothing here recurses. Sharing (a list that holds itself a million times) costs
 * nothing, because values are never copied or unfolded.
 */
import { type ErrorFacts, InputError, quote } from "../errors/index.js";
import { PickleReader } from "./pickle-reader.js";

/**
 * A Python list is an array, dict a Map, set a Set, tuple a Tuple, bytes a Uint8Array, a class or function a
 * PickledName. Other objects are Inert, or whatever the caller's makers return.
 */
export type PickleValue = null | boolean | number | bigint | string | object;

export class Tuple {
  constructor(readonly items: readonly PickleValue[]) {}
}

/** A class or function that the pickle names and that the caller allows. */
export class PickledName {
  constructor(readonly name: string) {}
}

/** An object of a harmless class that nothing here needs. Its content is dropped. */
export class Inert {
  constructor(readonly className: string) {}
}

export interface PickleContext {
  /** Refuses the file, with the path and the position added to `facts`. */
  fail(reason: string, facts?: ErrorFacts): never;
  /** Counts work beyond the one step of an opcode, such as copying `steps` elements. */
  charge(steps: number): void;
}

export type Maker = (args: readonly PickleValue[], context: PickleContext) => PickleValue;

export interface PickleOptions {
  /** The path of the file, for error messages. */
  readonly where: string;
  /** Every name that the pickle may use: "inert" if its objects are Inert, or the maker that stands for calling it. */
  readonly names: ReadonlyMap<string, "inert" | Maker>;
  /** Resolves the id of an object outside the pickle. */
  persistent(id: PickleValue, context: PickleContext): PickleValue;
}

/**
 * A tensor takes about 35 steps. Stable Diffusion with its moving average and optimizer state takes fewer than 200,000.
 */
const MAX_STEPS = 1_000_000;

/** The newest protocol, since Python 3.8. */
const MAX_PROTOCOL = 5;

/**
 * Reads the pickle that begins at `start`. `end` is the position after its STOP, where another pickle may begin.
 *
 * @throws InputError `file-malformed`, or `file-unsupported` when it names a class or function that is not listed
 */
export function unpickle(bytes: Uint8Array, options: PickleOptions, start = 0): { value: PickleValue; end: number } {
  return new Unpickler(new PickleReader(bytes, options.where, start), options).run();
}

/** The name of a value's type in Python, for error messages. */
export function typeName(value: PickleValue | undefined): string {
  if (value === undefined) return "nothing";
  if (value === null) return "None";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "number" || typeof value === "bigint") return "number";
  if (typeof value === "string") return "str";
  if (Array.isArray(value)) return "list";
  if (value instanceof Map) return "dict";
  if (value instanceof Set) return "set";
  if (value instanceof Tuple) return "tuple";
  if (value instanceof Uint8Array) return "bytes";
  if (value instanceof PickledName) return "class or function";
  return value instanceof Inert ? value.className : "object";
}

class Unpickler implements PickleContext {
  readonly memo = new Map<number, PickleValue>();
  private readonly stack: PickleValue[] = [];
  /** Heights of the stack at the open marks. */
  private readonly marks: number[] = [];
  private steps = 0;
  private running = true;

  constructor(
    readonly input: PickleReader,
    private readonly options: PickleOptions,
  ) {}

  run(): { value: PickleValue; end: number } {
    while (this.running) {
      const code = this.input.byte();
      const opcode = OPCODES[code];
      if (!opcode) this.fail(`0x${code.toString(16).padStart(2, "0")} is not a supported opcode`, { opcode: code });
      this.charge(1);
      opcode(this);
    }
    return { value: this.pop(), end: this.input.position };
  }

  requireProtocol(protocol: number): void {
    if (protocol <= MAX_PROTOCOL) return;
    this.fail(`it uses protocol ${protocol}, newer than ${MAX_PROTOCOL}`, { found: protocol, expected: MAX_PROTOCOL });
  }

  stop(): void {
    this.running = false;
  }

  fail(reason: string, facts?: ErrorFacts): never {
    return this.input.fail(reason, facts);
  }

  private failType(action: string, expected: string, found: PickleValue | undefined): never {
    return this.fail(`it ${action} a value of type ${typeName(found)}, not ${expected}`, {
      expected,
      found: typeName(found),
    });
  }

  charge(steps: number): void {
    this.steps += steps;
    if (this.steps > MAX_STEPS) {
      this.fail(`it takes more than ${MAX_STEPS} steps, far more than weights need`, { expected: MAX_STEPS });
    }
  }

  // The stack.

  push(value: PickleValue): void {
    this.stack.push(value);
  }

  /** Values below the last mark belong to whoever set it. */
  private need(count: number): void {
    const found = this.stack.length - (this.marks.at(-1) ?? 0);
    if (found >= count) return;
    this.fail(`an opcode takes ${count} values from a stack of ${found}`, { expected: count, found });
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
    if (mark === undefined) this.fail("an opcode goes back to a mark, but none is set", { expected: "mark" });
    return this.stack.splice(mark);
  }

  /** POP takes the last value, or the last mark if that is newer. */
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
    if (value === undefined) this.fail(`it reads memo ${index}, which was never set`, { memo: index });
    this.push(value);
  }

  // Objects.

  name(module: PickleValue, attribute: PickleValue): PickledName {
    if (typeof module !== "string") this.failType("names a module by", "str", module);
    if (typeof attribute !== "string") this.failType("names a class or function by", "str", attribute);
    // Protocols 0 to 2 use the module's name in Python 2.
    const name = `${module === "__builtin__" ? "builtins" : module}.${attribute}`;
    if (!this.options.names.has(name)) {
      throw new InputError(
        "file-unsupported",
        `${this.options.where}: asks for ${quote(name).slice(1, -1)}, which weights do not need. Nothing was run, because ` +
          "only tensors and plain containers are read. If you trust the source of the file, load it in PyTorch and save " +
          "its state_dict as safetensors; otherwise get the weights elsewhere.",
        { path: this.options.where, name },
      );
    }
    return new PickledName(name);
  }

  call(callee: PickleValue, args: PickleValue): void {
    if (!(callee instanceof PickledName)) this.failType("calls", "class or function", callee);
    if (!(args instanceof Tuple)) this.failType(`calls ${callee.name} with`, "tuple", args);
    const maker = this.options.names.get(callee.name);
    this.push(typeof maker === "function" ? maker(args.items, this) : new Inert(callee.name));
  }

  append(target: PickleValue, items: readonly PickleValue[]): void {
    if (Array.isArray(target)) for (const item of items) target.push(item);
    else if (!(target instanceof Inert)) this.failType("appends to", "list", target);
  }

  add(target: PickleValue, items: readonly PickleValue[]): void {
    if (target instanceof Set) for (const item of items) target.add(item);
    else if (!(target instanceof Inert)) this.failType("adds elements to", "set", target);
  }

  setItems(target: PickleValue, items: readonly PickleValue[]): void {
    if (items.length % 2 !== 0) this.fail("a dict has a key without a value", { expected: "value", found: "nothing" });
    if (target instanceof Map) {
      for (let i = 0; i < items.length; i += 2) target.set(items[i], items[i + 1]);
    } else if (!(target instanceof Inert)) this.failType("sets items of", "dict", target);
  }

  /** Drops the attributes of an object or a dict. A state_dict has one, `_metadata`, with versions of its modules. */
  build(): void {
    this.pop();
    const target = this.top();
    if (!(target instanceof Inert || target instanceof Map))
      this.failType("sets attributes of", "object or dict", target);
  }

  persistent(id: PickleValue): void {
    this.push(this.options.persistent(id, this));
  }
}

type Opcode = (pickle: Unpickler) => void;

const OPCODES: readonly (Opcode | undefined)[] = byCode({
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
