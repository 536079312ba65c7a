import { bfloatToNumber, type DType, halfToNumber, numberToBfloat, numberToHalf } from "./dtype.js";
import { type Shape, showShape, sizeOf } from "./shape.js";

/** Elements as they lie in memory. float16 and bfloat16 are stored as their bits, bool as 0 or 1. */
export type HostData = Float64Array | Float32Array | Uint16Array | BigInt64Array | Int32Array | Uint8Array | Int8Array;

/** A tensor in the memory of this process, in row-major order. */
export interface HostTensor {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly data: HostData;
}

/** Zeros: `size` elements of type `dtype`. */
export function allocate(dtype: DType, size: number): HostData {
  switch (dtype) {
    case "float64":
      return new Float64Array(size);
    case "float32":
      return new Float32Array(size);
    case "float16":
    case "bfloat16":
      return new Uint16Array(size);
    case "int64":
      return new BigInt64Array(size);
    case "int32":
      return new Int32Array(size);
    case "uint8":
    case "bool":
      return new Uint8Array(size);
    case "int8":
      return new Int8Array(size);
  }
}

/**
 * Numbers in row-major order → a tensor, each number rounded to `dtype`.
 *
 * @throws RangeError if there are not as many values as the shape has elements.
 */
export function fromNumbers(values: ArrayLike<number>, shape: Shape, dtype: DType = "float32"): HostTensor {
  if (values.length !== sizeOf(shape)) {
    throw new RangeError(`tensor: ${values.length} values do not fill shape ${showShape(shape)}`);
  }
  const data = allocate(dtype, values.length);
  if (data instanceof BigInt64Array) {
    for (let i = 0; i < values.length; i++) data[i] = BigInt(values[i] as number);
  } else if (dtype === "float16" || dtype === "bfloat16") {
    const encode = dtype === "float16" ? numberToHalf : numberToBfloat;
    for (let i = 0; i < values.length; i++) data[i] = encode(values[i] as number);
  } else {
    for (let i = 0; i < values.length; i++) data[i] = values[i] as number;
  }
  return { dtype, shape, data };
}

/** The elements of any type as float64. */
export function toNumbers({ dtype, data }: HostTensor): Float64Array {
  const out = new Float64Array(data.length);
  if (data instanceof BigInt64Array) {
    for (let i = 0; i < out.length; i++) out[i] = Number(data[i]);
  } else if (dtype === "float16" || dtype === "bfloat16") {
    const decode = dtype === "float16" ? halfToNumber : bfloatToNumber;
    for (let i = 0; i < out.length; i++) out[i] = decode(data[i] as number);
  } else {
    out.set(data);
  }
  return out;
}

/**
 * The elements as float32. Does not copy if they are float32 already.
 *
 * @throws TypeError if the tensor is not floating point.
 */
export function toFloat32({ dtype, data }: HostTensor): Float32Array {
  if (data instanceof Float32Array) return data;
  const out = new Float32Array(data.length);
  if (dtype === "float16" || dtype === "bfloat16") {
    const decode = dtype === "float16" ? halfToNumber : bfloatToNumber;
    for (let i = 0; i < out.length; i++) out[i] = decode(data[i] as number);
    return out;
  }
  if (data instanceof Float64Array) {
    out.set(data);
    return out;
  }
  throw new TypeError(`tensor: expected floating point elements, found ${dtype}`);
}

/**
 * Wraps float32 elements in a tensor without a copy.
 *
 * @throws RangeError if there are not as many values as the shape has elements.
 */
export function float32(data: Float32Array, shape: Shape): HostTensor {
  if (data.length !== sizeOf(shape)) {
    throw new RangeError(`tensor: ${data.length} values do not fill shape ${showShape(shape)}`);
  }
  return { dtype: "float32", shape, data };
}
