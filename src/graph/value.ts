import { BYTES_PER_ELEMENT, type DType } from "../tensor/dtype.js";
import { type Shape, showShape, sizeOf } from "../tensor/shape.js";

export interface TensorType {
  readonly shape: Shape;
  readonly dtype: DType;
}

/** Writes an op into an ONNX graph. All strings are names of ONNX values. */
export interface OnnxWriter {
  /**
   * Adds an ONNX node and returns the names of its outputs. The input "" omits an optional input. `opType` starts with
   * the domain if it is not a standard operator (`com.microsoft.QuickGelu`).
   */
  node(opType: string, inputs: readonly string[], attributes?: OnnxAttributes, outputs?: number): string[];
  /** Adds an int64 vector as an initializer. */
  ints(values: readonly number[]): string;
  /** Adds a tensor as an initializer. Shape [] is a scalar. */
  tensor(values: ArrayLike<number>, shape: Shape, dtype: DType): string;
  /** Adds a tensor of equal elements as an initializer. */
  filled(value: number, shape: Shape, dtype: DType): string;
}

export type OnnxAttributes = Record<
  string,
  number | string | readonly number[] | { float: number } | { floats: readonly number[] }
>;

/** The domain of the operators that ONNX Runtime adds to the standard ones. */
export const CONTRIB = "com.microsoft";

/** An array of the float64 interpreter, in row-major order. */
export interface F64Array {
  readonly shape: Shape;
  readonly data: Float64Array;
}

/**
 * Defines an op: its shape inference, its ONNX form and its reference implementation in float64. Its gradient rule is
 * in `autodiff/rules`.
 */
export interface OpDef<A = unknown> {
  readonly name: string;
  /**
   * The type of each output.
   *
   * @throws TypeError with the op and the types if the inputs do not fit.
   */
  infer(inputs: readonly TensorType[], attrs: A): readonly TensorType[];
  /** Writes ONNX nodes and returns the names of the outputs. */
  emit(w: OnnxWriter, inputs: readonly string[], node: Node<A>): readonly string[];
  /** Computes the outputs in float64. */
  evaluate(inputs: readonly F64Array[], node: Node<A>): readonly F64Array[];
  /**
   * Precision of the op in a mixed-precision program, after the op lists of torch.autocast: "float16" for products, which
   * gain from it; "float32" for reductions, norms and functions of a wide range. Any other op runs in the widest type
   * of its inputs.
   */
  readonly autocast?: "float16" | "float32";
}

/** One application of an op. Immutable. */
export interface Node<A = unknown> {
  readonly op: OpDef<A>;
  readonly inputs: readonly Value[];
  readonly attrs: A;
  readonly outputs: readonly Value[];
}

/** A symbolic tensor: output `index` of `node`. */
export interface Value extends TensorType {
  /** @internal */
  readonly node: Node;
  readonly index: number;
}

/** Applies an op and returns one value per output. Throws a TypeError if the inputs do not fit. */
export function apply<A>(op: OpDef<A>, inputs: readonly Value[], attrs: A): readonly Value[] {
  const types = op.infer(inputs, attrs);
  const outputs: Value[] = [];
  const node: Node<A> = { op, inputs, attrs, outputs };
  for (const [index, { shape, dtype }] of types.entries()) {
    outputs.push({ shape: Object.freeze([...shape]), dtype, node: node as Node, index });
  }
  return outputs;
}

/** Applies an op and returns its first output. */
export function apply1<A>(op: OpDef<A>, inputs: readonly Value[], attrs: A): Value {
  return apply(op, inputs, attrs)[0] as Value;
}

export function showType({ dtype, shape }: TensorType): string {
  return `${dtype}${showShape(shape)}`;
}

export function bytesOf({ dtype, shape }: TensorType): number {
  return sizeOf(shape) * BYTES_PER_ELEMENT[dtype];
}
