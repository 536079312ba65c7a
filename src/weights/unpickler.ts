/**
 * The stack machine that runs a pickle.
 *
 * Bounds: each opcode adds at most one object, and work beyond one step is charged for, so MAX_STEPS bounds time,
 * stack, memo and nesting alike. Nothing here recurses. Sharing (a list that holds itself a million times) costs
 * nothing, because values are never copied or unfolded.
 */
import { type ErrorFacts, InputError, quote } from "../errors/index.js";
import type { PickleReader } from "./pickle-reader.js";
import { Inert, PickledName, type PickleValue, Tuple, typeName } from "./pickle-values.js";

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

/** One instruction of the machine. */
export type Opcode = (pickle: Unpickler) => void;

/**
 * A tensor takes about 35 steps. Stable Diffusion with its moving average and optimizer state takes fewer than 200,000.
 */
const MAX_STEPS = 1_000_000;

/** The newest protocol, since Python 3.8. */
const MAX_PROTOCOL = 5;

export class Unpickler implements PickleContext {
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

  run(opcodes: readonly (Opcode | undefined)[]): { value: PickleValue; end: number } {
    while (this.running) {
      const code = this.input.byte();
      const opcode = opcodes[code];
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
