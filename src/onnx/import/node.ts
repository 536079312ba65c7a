/** One node of an ONNX graph as the importers of operators see it. */
import { type AttributeProto, AttributeProto_AttributeType as Type } from "onnx-buf";
import type { ErrorFacts } from "../../errors/index.js";
import type { F64Array, Value } from "../../graph/value.js";
import { constant } from "../../ops/index.js";
import { constantOp } from "../../ops/source.js";
import { normalizeAxis } from "../../tensor/shape.js";

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
}

/** Typed access to a node's inputs, as values of our graph, and to its attributes. */
export class OnnxNode {
  readonly operator: string;
  readonly opset: number;
  readonly inputs: NodeParts["inputs"];
  readonly outputs: number;
  readonly tensor: Value | undefined;
  private readonly attributes: NodeParts["attributes"];

  constructor({ operator, opset, inputs, outputs, attributes, tensor }: NodeParts) {
    this.operator = operator;
    this.opset = opset;
    this.inputs = inputs;
    this.outputs = outputs;
    this.attributes = attributes;
    this.tensor = tensor;
  }

  input(index: number): Value {
    return this.inputs[index] ?? this.fail(`has no input ${index}`, { input: index });
  }

  /** All inputs, none of which may be left out. */
  all(): Value[] {
    if (this.inputs.length === 0) this.fail("has no inputs");
    return this.inputs.map((_, i) => this.input(i));
  }

  /** The elements of an input that must be constant; undefined if it is left out. `what` names the input in messages. */
  numbers(index: number, what: string): number[] | undefined {
    const value = this.inputs[index];
    if (!value) return undefined;
    const known = numbersOf(value);
    return known
      ? [...known.data]
      : this.fail(
          `its ${what} (input ${index}) depends on the image or on weights, but must be a constant. Export the model with a fixed size`,
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
    const attribute = this.attributes.get(name);
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
