/** Values without inputs: the inputs of a graph, the weights of a model, and constants. */
import { apply1, type OpDef, type Value } from "../graph/value.js";
import { type DType, isFloating } from "../tensor/dtype.js";
import { fromNumbers, toNumbers } from "../tensor/host.js";
import { type Shape, showShape, sizeOf } from "../tensor/shape.js";

export interface TypeAttrs {
  readonly shape: Shape;
  readonly dtype: DType;
}

export const inputOp: OpDef<TypeAttrs> = {
  name: "input",
  infer: (_, type) => [type],
  emit: () => {
    throw new Error("input: is declared by the graph and cannot be emitted as a node");
  },
  evaluate: () => {
    throw new Error("input: the feeds do not hold a value for it");
  },
};

export const parameterOp: OpDef<TypeAttrs & { readonly name: string }> = {
  name: "parameter",
  infer: (_, type) => [type],
  emit: () => {
    throw new Error("parameter: is bound by the runtime and cannot be emitted as a node");
  },
  evaluate: (_, { attrs }) => {
    throw new Error(`parameter: there is no value for ${attrs.name}`);
  },
};

export const constantOp: OpDef<TypeAttrs & { readonly values: ArrayLike<number> }> = {
  name: "constant",
  infer: (_, { shape, dtype, values }) => {
    if (values.length !== sizeOf(shape)) {
      throw new TypeError(`constant: ${values.length} values do not fill ${showShape(shape)}`);
    }
    return [{ shape, dtype }];
  },
  emit: (w, _, { attrs }) => [w.tensor(attrs.values, attrs.shape, attrs.dtype)],
  evaluate: (_, { attrs }) => [{ shape: attrs.shape, data: Float64Array.from(attrs.values) }],
};

/** A tensor that the caller feeds at each run. */
export function input(shape: Shape, dtype: DType = "float32"): Value {
  return apply1(inputOp, [], { shape, dtype });
}

/** A weight, identified by its name. Its data is bound when the graph is compiled. */
export function parameter(name: string, shape: Shape, dtype: DType): Value {
  return apply1(parameterOp, [], { name, shape, dtype });
}

/**
 * A constant. Its values are rounded to `dtype` here, so that the interpreter and the runtime compute with the same
 * numbers.
 */
export function constant(values: ArrayLike<number>, shape: Shape, dtype: DType = "float32"): Value {
  const rounded = isFloating(dtype) && dtype !== "float64" ? toNumbers(fromNumbers(values, shape, dtype)) : values;
  return apply1(constantOp, [], { values: rounded, shape, dtype });
}

export function filled(shape: Shape, value: number, dtype: DType = "float32"): Value {
  return constant(new Float64Array(sizeOf(shape)).fill(value), shape, dtype);
}

export function zeros(shape: Shape, dtype: DType = "float32"): Value {
  return filled(shape, 0, dtype);
}
