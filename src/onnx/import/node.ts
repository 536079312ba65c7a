/** One node of an ONNX graph as the importers of operators see it. */
import { type AttributeProto, AttributeProto_AttributeType as Type } from "onnx-buf";
import type { ErrorFacts } from "../../errors/index.js";
import type { F64Array, Value } from "../../graph/value.js";
import { constant } from "../../ops/index.js";
import { constantOp } from "../../ops/source.js";
import { normalizeAxis, showShape } from "../../tensor/shape.js";

/** A node that cannot be imported. `OnnxImport` adds the file and the node, and makes an InputError of it. */
export class UnsupportedNode extends TypeError {
  constructor(
    message: string,
    readonly facts: ErrorFacts = {},
  ) {
    super(message);
  }
}

interface NodeParts {
  readonly operator: string;
  /** Version of the standard operator set that the node was written for. */
  readonly opset: number;
  /** undefined for an optional input that is left out. */
  readonly inputs: readonly (Value | undefined)[];
  /** Number of outputs that the node names. */
  readonly outputs: number;
  readonly attributes: ReadonlyMap<string, AttributeProto>;
  /** The tensor attribute `value`, which only constants have. */
  readonly tensor: Value | undefined;
  /** TensorProto.DataType of the inputs in the file, for those that are inputs or constants of the file. */
  readonly types: readonly (number | undefined)[];
  /** `rounded` with the gradient of `like`, if the import lets gradients pass through rounding. */
  readonly throughRounding: (rounded: Value, like: Value) => Value;
}

/**
 * Typed access to a node's inputs, as values of our graph, and to its attributes. It notes what has been read, so that
 * nothing that a file says about a node is dropped in silence (`requireRead`).
 */
export class OnnxNode {
  readonly operator: string;
  readonly opset: number;
  private readonly parts: NodeParts;
  private readonly readAttributes = new Set<string>();
  private readonly readInputs = new Set<number>();
  private readsOutputs = false;

  constructor(parts: NodeParts) {
    this.operator = parts.operator;
    this.opset = parts.opset;
    this.parts = parts;
  }

  /** Number of outputs that the node names. An importer that reads it knows which of them it does not return. */
  get outputs(): number {
    this.readsOutputs = true;
    return this.parts.outputs;
  }

  /** The tensor attribute `value`, which only constants have. */
  get tensor(): Value | undefined {
    this.readAttributes.add("value");
    return this.parts.tensor;
  }

  input(index: number): Value {
    return this.optional(index) ?? this.fail(`has no input ${index}`, { input: index });
  }

  /** An input with one of these numbers of axes. */
  ranked(index: number, ...ranks: readonly number[]): Value {
    const value = this.input(index);
    if (ranks.includes(value.shape.length)) return value;
    const found = showShape(value.shape);
    return this.fail(`its input ${index} has the shape ${found}, but must have ${ranks.join(" or ")} axes`, {
      input: index,
      found: value.shape,
    });
  }

  /** An input that may be left out. */
  optional(index: number): Value | undefined {
    this.readInputs.add(index);
    return this.parts.inputs[index];
  }

  /** Number of inputs, those that are left out included. */
  get count(): number {
    return this.parts.inputs.length;
  }

  /** The element type of an input in the file, a TensorProto.DataType, if the file states it. */
  elementType(index: number): number | undefined {
    return this.parts.types[index];
  }

  /** A rounded value, whose derivative is 0, or that of `like` if the import is straight through. */
  throughRounding(rounded: Value, like: Value): Value {
    return this.parts.throughRounding(rounded, like);
  }

  /** All inputs, none of which may be left out. */
  all(): Value[] {
    if (this.parts.inputs.length === 0) this.fail("has no inputs");
    return this.parts.inputs.map((_, i) => this.input(i));
  }

  /** Declares that attributes (by name) and inputs (by index) have no effect on the value of this node, if it has them. */
  ignore(...known: readonly (string | number)[]): void {
    for (const what of known) {
      if (typeof what === "string") this.readAttributes.add(what);
      else this.readInputs.add(what);
    }
  }

  /**
   * Refuses the node if it has an attribute or an input that its importer has not read, or names an output that its importer
   * does not know of. `returned` is the number of outputs that it made.
   */
  requireRead(returned: number): void {
    const { attributes, inputs, outputs } = this.parts;
    const remedy = "Export the model without it, or choose an output before this node";
    for (const name of attributes.keys()) {
      if (this.readAttributes.has(name)) continue;
      this.fail(`its attribute ${name.slice(0, 60)} is not supported. ${remedy}`, { attribute: name.slice(0, 60) });
    }
    for (const [i, value] of inputs.entries()) {
      if (value && !this.readInputs.has(i)) this.fail(`its input ${i} is not supported. ${remedy}`, { input: i });
    }
    if (outputs > returned && !this.readsOutputs) {
      this.fail(`its output ${returned} is not supported. ${remedy}`, { output: returned });
    }
  }

  /** The elements of an input that must be constant; undefined if it is left out. `what` names the input in messages. */
  numbers(index: number, what: string): number[] | undefined {
    const value = this.optional(index);
    if (!value) return undefined;
    const known = numbersOf(value);
    return known
      ? [...known.data]
      : this.fail(
          `its ${what} (input ${index}) depends on the image or on weights, but must be a constant. Export the model with a fixed size, or choose an output before this node`,
          { input: index, parameter: what },
        );
  }

  /** Like `numbers`, for an input that holds integers such as a shape, axes or indices. */
  integers(index: number, what: string): number[] | undefined {
    const values = this.numbers(index, what);
    const wrong = values?.find((value) => !Number.isSafeInteger(value));
    if (wrong === undefined) return values;
    return this.fail(`its ${what} (input ${index}) contains ${wrong}, which is not an integer`, {
      input: index,
      parameter: what,
      found: wrong,
    });
  }

  integer(index: number, what: string): number | undefined {
    return this.single(this.integers(index, what), index, what);
  }

  number(index: number, what: string): number | undefined {
    return this.single(this.numbers(index, what), index, what);
  }

  int(name: string): number | undefined {
    const attribute = this.attribute(name, Type.INT);
    return attribute && this.safeInteger(attribute.i, name);
  }

  ints(name: string): number[] | undefined {
    const attribute = this.attribute(name, Type.INTS);
    return attribute?.ints.map((value) => this.safeInteger(value, name));
  }

  float(name: string): number | undefined {
    return this.attribute(name, Type.FLOAT)?.f;
  }

  floats(name: string): number[] | undefined {
    return this.attribute(name, Type.FLOATS)?.floats;
  }

  string(name: string): string | undefined {
    const bytes = this.attribute(name, Type.STRING)?.s;
    return bytes && new TextDecoder().decode(bytes);
  }

  strings(name: string): string[] | undefined {
    return this.attribute(name, Type.STRINGS)?.strings.map((bytes) => new TextDecoder().decode(bytes));
  }

  /** A string attribute with a closed set of values. */
  choice<T extends string>(name: string, options: readonly T[], otherwise: T): T {
    const value = this.string(name) ?? otherwise;
    const option = options.find((one) => one === value);
    if (option !== undefined) return option;
    const found = value.slice(0, 40);
    return this.fail(`${name} is ${JSON.stringify(found)}, but only ${options.join(", ")} are supported`, {
      attribute: name,
      found,
      expected: options,
    });
  }

  /** Integers that are an attribute in older opsets and an input in newer ones. */
  intsOrInput(name: string, index: number): number[] | undefined {
    return this.ints(name) ?? this.integers(index, name);
  }

  /** An axis attribute, as 0 … rank - 1. */
  axis(name: string, otherwise: number, rank: number): number {
    return normalizeAxis(this.int(name) ?? otherwise, rank, name);
  }

  fail(message: string, facts?: ErrorFacts): never {
    throw new UnsupportedNode(message, facts);
  }

  private single(values: readonly number[] | undefined, index: number, what: string): number | undefined {
    const [value, ...more] = values ?? [];
    if (more.length === 0) return value;
    return this.fail(`its ${what} (input ${index}) must be one number, but has ${more.length + 1}`, {
      input: index,
      parameter: what,
      found: more.length + 1,
    });
  }

  private safeInteger(value: bigint, attribute: string): number {
    const number = Number(value);
    return Number.isSafeInteger(number)
      ? number
      : this.fail(`its attribute ${attribute} is out of range`, { attribute });
  }

  private attribute(name: string, type: Type): AttributeProto | undefined {
    this.readAttributes.add(name);
    const attribute = this.parts.attributes.get(name);
    // Files of the first IR versions leave the type out.
    if (attribute && attribute.type !== type && attribute.type !== Type.UNDEFINED) {
      const [found, expected] = [Type[attribute.type], Type[type]];
      this.fail(`its attribute ${name} has type ${found}, but must have type ${expected}`, {
        attribute: name,
        found,
        expected,
      });
    }
    return attribute;
  }
}

/** The elements of a constant; undefined for any other value. */
export function numbersOf(value: Value): F64Array | undefined {
  if (value.node.op.name !== constantOp.name) return undefined;
  const { values } = value.node.attrs as { values: ArrayLike<number> };
  return { shape: value.shape, data: values instanceof Float64Array ? values : Float64Array.from(values) };
}

/** values → int64 [n] */
export const integers = (values: readonly number[]): Value => constant(values, [values.length], "int64");
