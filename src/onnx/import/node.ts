import { type AttributeProto, AttributeProto_AttributeType as Type } from "onnx-buf";
import type { F64Array, Value } from "../../graph/value.js";
import { constant } from "../../ops/index.js";
import { constantOp } from "../../ops/source.js";
import { normalizeAxis } from "../../tensor/shape.js";

/** What an operator's importer sees of one node: its inputs as values of our graph, and its attributes. */
export class OnnxNode {
  constructor(
    readonly operator: string,
    /** The version of ONNX's operators that the node was written for. */
    readonly opset: number,
    /** undefined where an optional input is left out. */
    readonly inputs: readonly (Value | undefined)[],
    /** How many outputs it names. */
    readonly outputs: number,
    private readonly attributes: ReadonlyMap<string, AttributeProto>,
    /** The tensor attribute `value`, which only constants have. */
    readonly tensor: Value | undefined,
  ) {}

  input(index: number): Value {
    return this.inputs[index] ?? this.fail(`has no input ${index}`);
  }

  /** Every input, none of them left out. */
  all(): Value[] {
    if (this.inputs.length === 0) this.fail("has no inputs");
    return this.inputs.map((_, i) => this.input(i));
  }

  /** The numbers of an input that must not depend on the picture; undefined where it is left out. */
  numbers(index: number, what: string): number[] | undefined {
    const value = this.inputs[index];
    if (!value) return undefined;
    const known = numbersOf(value);
    return known
      ? [...known.data]
      : this.fail(`its ${what} (input ${index}) depends on the picture or on weights; it must be a constant`);
  }

  /** The same where only whole numbers make sense: extents, axes, positions. */
  integers(index: number, what: string): number[] | undefined {
    const values = this.numbers(index, what);
    const wrong = values?.find((value) => !Number.isSafeInteger(value));
    return wrong === undefined ? values : this.fail(`its ${what} (input ${index}) holds ${wrong}, not a whole number`);
  }

  integer(index: number, what: string): number | undefined {
    const [value, ...more] = this.integers(index, what) ?? [];
    return more.length === 0 ? value : this.fail(`its ${what} (input ${index}) must be one number`);
  }

  number(index: number, what: string): number | undefined {
    const [value, ...more] = this.numbers(index, what) ?? [];
    return more.length === 0 ? value : this.fail(`its ${what} (input ${index}) must be one number`);
  }

  int(name: string): number | undefined {
    const attribute = this.attribute(name, Type.INT);
    return attribute && wholeNumber(attribute.i, () => this.fail(`attribute ${name} is out of range`));
  }

  ints(name: string): number[] | undefined {
    const attribute = this.attribute(name, Type.INTS);
    return attribute?.ints.map((value) => wholeNumber(value, () => this.fail(`attribute ${name} is out of range`)));
  }

  float(name: string): number | undefined {
    return this.attribute(name, Type.FLOAT)?.f;
  }

  floats(name: string): number[] | undefined {
    return this.attribute(name, Type.FLOATS)?.floats;
  }

  text(name: string): string | undefined {
    const bytes = this.attribute(name, Type.STRING)?.s;
    return bytes && new TextDecoder().decode(bytes);
  }

  /** An attribute that must be one of a few words. */
  choice<T extends string>(name: string, options: readonly T[], otherwise: T): T {
    const text = this.text(name) ?? otherwise;
    const found = options.find((option) => option === text);
    return found ?? this.fail(`${name} is ${JSON.stringify(text.slice(0, 40))}; supported: ${options.join(", ")}`);
  }

  /** Integers that older opsets have as an attribute and newer ones as an input. */
  intsOrInput(name: string, index: number): number[] | undefined {
    return this.ints(name) ?? this.integers(index, name);
  }

  axis(name: string, otherwise: number, rank: number): number {
    return normalizeAxis(this.int(name) ?? otherwise, rank, name);
  }

  fail(message: string): never {
    throw new TypeError(message);
  }

  private attribute(name: string, type: Type): AttributeProto | undefined {
    const attribute = this.attributes.get(name);
    // Files of the first IR versions leave the type out.
    if (attribute && attribute.type !== type && attribute.type !== Type.UNDEFINED) {
      this.fail(`attribute ${name} is of type ${Type[attribute.type]}, not ${Type[type]}`);
    }
    return attribute;
  }
}

function wholeNumber(value: bigint, fail: () => never): number {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : fail();
}

/** The elements of a value that is a literal. */
export function numbersOf(value: Value): F64Array | undefined {
  if (value.node.op.name !== constantOp.name) return undefined;
  const { values } = value.node.attrs as { values: ArrayLike<number> };
  return { shape: value.shape, data: values instanceof Float64Array ? values : Float64Array.from(values) };
}

export const integers = (values: readonly number[]): Value => constant(values, [values.length], "int64");
