/** Element types of ONNX tensors: how they are stored, and the types that they get in our graphs. */
import { TensorProto_DataType } from "onnx-buf";
import { bfloatToNumber, type DType, halfToNumber } from "../../tensor/dtype.js";

const Type = TensorProto_DataType;

/** How elements are stored, and the type that they get in our graphs: integers of other widths become int64. */
export const ELEMENTS: Readonly<
  Record<number, { dtype: DType; bytes: number; read: (view: DataView, at: number) => number }>
> = {
  [Type.FLOAT]: { dtype: "float32", bytes: 4, read: (view, at) => view.getFloat32(at, true) },
  [Type.DOUBLE]: { dtype: "float64", bytes: 8, read: (view, at) => view.getFloat64(at, true) },
  [Type.FLOAT16]: { dtype: "float16", bytes: 2, read: (view, at) => halfToNumber(view.getUint16(at, true)) },
  [Type.BFLOAT16]: { dtype: "bfloat16", bytes: 2, read: (view, at) => bfloatToNumber(view.getUint16(at, true)) },
  [Type.INT64]: { dtype: "int64", bytes: 8, read: (view, at) => safe(view.getBigInt64(at, true)) },
  [Type.INT32]: { dtype: "int32", bytes: 4, read: (view, at) => view.getInt32(at, true) },
  [Type.INT16]: { dtype: "int64", bytes: 2, read: (view, at) => view.getInt16(at, true) },
  [Type.INT8]: { dtype: "int8", bytes: 1, read: (view, at) => view.getInt8(at) },
  [Type.UINT64]: { dtype: "int64", bytes: 8, read: (view, at) => safe(view.getBigUint64(at, true)) },
  [Type.UINT32]: { dtype: "int64", bytes: 4, read: (view, at) => view.getUint32(at, true) },
  [Type.UINT16]: { dtype: "int64", bytes: 2, read: (view, at) => view.getUint16(at, true) },
  [Type.UINT8]: { dtype: "uint8", bytes: 1, read: (view, at) => view.getUint8(at) },
  [Type.BOOL]: { dtype: "bool", bytes: 1, read: (view, at) => Number(view.getUint8(at) !== 0) },
};

/** Integers of less than a byte, packed from the lowest bits on. They are kept as bytes. */
export const PACKED: Readonly<Record<number, { readonly bits: number; readonly isSigned: boolean }>> = {
  [Type.UINT4]: { bits: 4, isSigned: false },
  [Type.INT4]: { bits: 4, isSigned: true },
  // These two are newer than the types of onnx-buf.
  25: { bits: 2, isSigned: false },
  26: { bits: 2, isSigned: true },
};

/** Clamps to the integers that a float64 holds exactly: INT64_MAX, for example, means "to the end" in a Slice. */
export function safe(value: bigint): number {
  const max = BigInt(Number.MAX_SAFE_INTEGER);
  return Number(value > max ? max : value < -max ? -max : value);
}

/** The type that an ONNX element type gets in our graphs; undefined for strings, complex numbers and 8-bit floating point. */
export function dtypeOf(dataType: number): DType | undefined {
  const packed = PACKED[dataType];
  return packed ? (packed.isSigned ? "int8" : "uint8") : ELEMENTS[dataType]?.dtype;
}

/** Smallest and largest integer of an ONNX element type of at most 16 bits. */
export function rangeOf(dataType: number): readonly [number, number] | undefined {
  const packed = PACKED[dataType];
  const bits = packed?.bits ?? { [Type.UINT8]: 8, [Type.INT8]: 8, [Type.UINT16]: 16, [Type.INT16]: 16 }[dataType];
  if (bits === undefined) return undefined;
  const isSigned = packed?.isSigned ?? (dataType === Type.INT8 || dataType === Type.INT16);
  return isSigned ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1];
}

/** Whether a cast may have this type as its target. Packed integers are only read. */
export const isCastTarget = (dataType: number) => Object.hasOwn(ELEMENTS, dataType);

export const typeName = (dataType: number): string =>
  Type[dataType] ?? { 25: "UINT2", 26: "INT2" }[dataType] ?? `type ${dataType}`;
