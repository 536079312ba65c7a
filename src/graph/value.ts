import { BYTES_PER_ELEMENT, type DType } from "../tensor/dtype.js";
import { type Shape, showShape, sizeOf } from "../tensor/shape.js";

export interface TensorType {
  readonly shape: Shape;
  readonly dtype: DType;
}

/** What an op writes into an ONNX graph; names are those of ONNX values. */
export interface OnnxWriter {
  /**
   * One ONNX node; returns the names of its outputs. "" leaves out an optional input. `opType` begins with its domain where
   * that is not ONNX's own.
   */
  node(opType: string, inputs: readonly string[], attributes?: OnnxAttributes, outputs?: number): string[];
  /** An int64 vector as an initializer. */
  ints(values: readonly number[]): string;
  /** A tensor as an initializer; shape [] is a scalar. */
  tensor(values: ArrayLike<number>, shape: Shape, dtype: DType): string;
}

export type OnnxAttributes = Record<
  string,
  number | string | readonly number[] | { float: number } | { floats: readonly number[] }
>;

/** The domain of the operators that ONNX Runtime adds to the standard. */
export const CONTRIB = "com.microsoft";

/** An array of the float64 interpreter. */
export interface F64Array {
  readonly shape: Shape;
  readonly data: Float64Array;
}

/**
 * Everything about one operation but its gradient (that is `autodiff/rules`): shape rule, ONNX form, and what it means
 * in float64. An op with several outputs returns several types.
 */
export interface OpDef<A = unknown> {
  readonly name: string;
  /** Output types; throws a TypeError naming the op and the shapes where the inputs do not fit. */
  infer(inputs: readonly TensorType[], attrs: A): readonly TensorType[];
  /** Writes ONNX nodes; returns the output names. */
  emit(w: OnnxWriter, inputs: readonly string[], node: Node<A>): readonly string[];
  evaluate(inputs: readonly F64Array[], node: Node<A>): readonly F64Array[];
  /**
   * Precision of the op in a mixed-precision program, after the op lists of torch.autocast: "float16" for products, which
   * gain from it; "float32" for reductions, norms and functions of a wide range. Any other op runs in the widest type
   * of its inputs.
   */
  readonly autocast?: "float16" | "float32";
}

/** One application of an op. Immutable: a graph is whatever its outputs reach. */
export interface Node<A = unknown> {
  readonly op: OpDef<A>;
  readonly inputs: readonly Value[];
  readonly attrs: A;
  readonly outputs: readonly Value[];
}

/** A symbolic tensor: output `index` of `node`. */
export interface Value extends TensorType {
  readonly node: Node;
  readonly index: number;
}

export function apply<A>(op: OpDef<A>, inputs: readonly Value[], attrs: A): readonly Value[] {
  const types = op.infer(inputs, attrs);
  const outputs: Value[] = [];
  const node: Node<A> = { op, inputs, attrs, outputs };
  for (const [index, { shape, dtype }] of types.entries()) {
    outputs.push({ shape: Object.freeze([...shape]), dtype, node: node as Node, index });
  }
  return outputs;
}

/** For ops of one output. */
export function apply1<A>(op: OpDef<A>, inputs: readonly Value[], attrs: A): Value {
  return apply(op, inputs, attrs)[0] as Value;
}

export function showType({ dtype, shape }: TensorType): string {
  return `${dtype}${showShape(shape)}`;
}

export function bytesOf({ dtype, shape }: TensorType): number {
  return sizeOf(shape) * BYTES_PER_ELEMENT[dtype];
}
