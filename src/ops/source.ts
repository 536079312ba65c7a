import { apply1, type OpDef, type Value } from "../graph/value.js";
import { type DType, isFloating } from "../tensor/dtype.js";
import { fromNumbers, toNumbers } from "../tensor/host.js";
import { type Shape, showShape, sizeOf } from "../tensor/shape.js";

/** Where values come from: the caller's tensors, a model's weights, and literals. */

export interface TypeAttrs {
  readonly shape: Shape;
  readonly dtype: DType;
}

export const inputOp: OpDef<TypeAttrs> = {
  name: "input",
  infer: (_, type) => [type],
  emit: () => {
    throw new Error("input: bound by the graph, never emitted as a node");
  },
  evaluate: () => {
    throw new Error("input: no value was fed for it");
  },
};

export const parameterOp: OpDef<TypeAttrs & { readonly name: string }> = {
  name: "parameter",
  infer: (_, type) => [type],
  emit: () => {
    throw new Error("parameter: bound by the graph, never emitted as a node");
  },
  evaluate: (_, { attrs }) => {
    throw new Error(`parameter: no value was given for ${attrs.name}`);
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

/** A tensor that the caller gives at each run. */
export function input(shape: Shape, dtype: DType = "float32"): Value {
  return apply1(inputOp, [], { shape, dtype });
}

/** A weight, known by its name; where its bytes lie is decided when the graph is compiled. */
export function parameter(name: string, shape: Shape, dtype: DType): Value {
  return apply1(parameterOp, [], { name, shape, dtype });
}

/** A literal. float32 literals are rounded here, so that the interpreter sees what the runtime sees. */
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
