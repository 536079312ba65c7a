import { realpath } from "node:fs/promises";
import { dirname, isAbsolute, join, sep } from "node:path";
import { type TensorProto, TensorProto_DataLocation, TensorProto_DataType } from "onnx-buf";
import { InputError } from "../../errors/index.js";
import { asInputError, readFully, withFile } from "../../io/files.js";
import { BYTES_PER_ELEMENT, bfloatToNumber, type DType, halfToNumber, isFloating } from "../../tensor/dtype.js";
import { fromNumbers } from "../../tensor/host.js";
import { type Shape, showShape, sizeOf } from "../../tensor/shape.js";
import type { StoredTensor } from "../../weights/source.js";

/** A tensor of an ONNX file: small ones as numbers, which shape arithmetic can compute with; weights where they lie. */
export type OnnxTensor =
  | { readonly kind: "constant"; readonly shape: Shape; readonly dtype: DType; readonly values: Float64Array }
  | { readonly kind: "weight"; readonly name: string; readonly stored: StoredTensor };

const Type = TensorProto_DataType;

/** How elements are stored, and what they are computed as: integers of other widths become int64. */
const ELEMENTS: Readonly<
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

/** INT64_MAX stands for "to the end"; whole numbers here are those that a float64 holds. */
function safe(value: bigint): number {
  const most = BigInt(Number.MAX_SAFE_INTEGER);
  return Number(value > most ? most : value < -most ? -most : value);
}

/** The type that values of an ONNX element type have in our graphs; undefined for strings, sequences and quantised types. */
export function dtypeOf(dataType: number): DType | undefined {
  return ELEMENTS[dataType]?.dtype;
}

export const typeName = (dataType: number): string => Type[dataType] ?? `type ${dataType}`;

/** Above this, numbers of floating point are weights, and integers too many to compute shapes with. */
const MOST_NUMBERS = 1024;
const MOST_INTEGERS = 2 ** 20;
const HIGHEST_RANK = 16;

/** Reads the tensors of one file; `bytes` is the file that the protos were decoded from, which shares their memory. */
export class TensorReader {
  constructor(
    private readonly path: string,
    private readonly realPath: string,
    private readonly bytes: Uint8Array,
  ) {}

  /** `name` is what messages and the weight are called. */
  async read(proto: TensorProto, name: string): Promise<OnnxTensor> {
    const where = `${this.path}: tensor ${JSON.stringify(name.slice(0, 100))}`;
    const element = ELEMENTS[proto.dataType];
    if (!element) {
      throw new InputError(
        "onnx-unsupported",
        `${where}: is of type ${typeName(proto.dataType)}, which is not supported. Export the model in float32 or float16, unquantised.`,
      );
    }
    const shape = shapeOf(proto, where);
    const size = sizeOf(shape);
    const length = size * element.bytes;
    const { dtype } = element;
    const isWeight = isFloating(dtype) ? size > MOST_NUMBERS : size > MOST_INTEGERS;
    if (isWeight && BYTES_PER_ELEMENT[dtype] !== element.bytes) {
      throw new InputError(
        "onnx-unsupported",
        `${where}: has ${size} elements of type ${typeName(proto.dataType)}; weights must be floating point.`,
      );
    }
    if (proto.dataLocation === TensorProto_DataLocation.EXTERNAL) {
      const place = await this.external(proto, length, where);
      if (isWeight) return { kind: "weight", name, stored: { kind: "file", dtype, shape, ...place } };
      const raw = new Uint8Array(length);
      await withFile(place.path, (file) => readFully(file, raw, place.offset, place.path));
      return { kind: "constant", dtype, shape, values: numbersOf(raw, element) };
    }
    if (proto.rawData.length > 0 || size === 0) {
      if (proto.rawData.length !== length) {
        throw new InputError(
          "onnx-unsupported",
          `${where}: ${typeName(proto.dataType)} ${showShape(shape)} takes ${length} bytes, but ${proto.rawData.length} are there.`,
        );
      }
      if (!isWeight) return { kind: "constant", dtype, shape, values: numbersOf(proto.rawData, element) };
      const offset = proto.rawData.byteOffset - this.bytes.byteOffset;
      return { kind: "weight", name, stored: { kind: "file", dtype, shape, path: this.realPath, offset, length } };
    }
    const values = typedNumbers(proto);
    if (values.length !== size) {
      throw new InputError(
        "onnx-unsupported",
        `${where}: ${showShape(shape)} has ${size} elements, but ${values.length} are there.`,
      );
    }
    if (!isWeight) return { kind: "constant", dtype, shape, values: Float64Array.from(values) };
    return {
      kind: "weight",
      name,
      stored: { kind: "memory", dtype, shape, data: fromNumbers(values, shape, dtype).data },
    };
  }

  /** Where an external tensor lies: a file beside the model or below it, and nowhere else. */
  private async external(proto: TensorProto, length: number, where: string) {
    const given = new Map(proto.externalData.map(({ key, value }) => [key, value]));
    const location = given.get("location") ?? "";
    const remedy = "Keep the files of a model together, as they were exported.";
    if (location === "" || isAbsolute(location) || location.split(/[\\/]/).includes("..") || location.includes("\0")) {
      throw new InputError(
        "onnx-unsupported",
        `${where}: its data is said to lie at ${JSON.stringify(location.slice(0, 200))}; a file beside the model is needed.`,
      );
    }
    const beside = join(dirname(this.path), location);
    let path: string;
    try {
      path = await realpath(beside);
      const folders = [await realpath(dirname(this.path)), dirname(this.realPath)];
      // A cache of models links to files that lie side by side elsewhere.
      if (!folders.some((folder) => path.startsWith(folder + sep))) {
        throw new InputError(
          "onnx-unsupported",
          `${where}: its data at ${JSON.stringify(location)} leads out of the model's folder. ${remedy}`,
        );
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") {
        throw new InputError(
          "onnx-unsupported",
          `${where}: its data should lie in ${beside}, which is not there. ${remedy}`,
        );
      }
      throw asInputError(error, beside, "read");
    }
    const offset = wholeNumber(given.get("offset") ?? "0", `${where}: offset`);
    const stated = wholeNumber(given.get("length") ?? String(length), `${where}: length`);
    if (stated !== length) {
      throw new InputError(
        "onnx-unsupported",
        `${where}: takes ${length} bytes, but its external data is said to have ${stated}.`,
      );
    }
    await withFile(path, async (_, bytes) => {
      if (offset + length > bytes) {
        throw new InputError(
          "onnx-unsupported",
          `${where}: lies at ${offset} … ${offset + length} of ${location}, which has ${bytes} bytes. Fetch it again.`,
        );
      }
    });
    return { path, offset, length };
  }
}

function shapeOf({ dims }: TensorProto, where: string): number[] {
  const shape = dims.map(Number);
  // The largest file is 2 GiB, external ones aside.
  if (shape.length > HIGHEST_RANK || shape.some((extent) => extent < 0) || !(sizeOf(shape) <= 2 ** 40)) {
    throw new InputError(
      "onnx-unsupported",
      `${where}: ${showShape(shape.slice(0, HIGHEST_RANK))} is not a shape that a tensor can have.`,
    );
  }
  return shape;
}

function wholeNumber(text: string, where: string): number {
  const value = Number(text);
  if (!/^\d{1,16}$/.test(text) || !Number.isSafeInteger(value)) {
    throw new InputError("onnx-unsupported", `${where}: ${JSON.stringify(text.slice(0, 40))} is not a whole number.`);
  }
  return value;
}

function numbersOf(raw: Uint8Array, { bytes, read }: { bytes: number; read: (view: DataView, at: number) => number }) {
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  return Float64Array.from({ length: raw.length / bytes }, (_, i) => read(view, i * bytes));
}

/** Tensors that are not raw have a field for each kind of number; the halves are bits in whole numbers. */
function typedNumbers(proto: TensorProto): ArrayLike<number> {
  switch (proto.dataType) {
    case Type.FLOAT:
      return proto.floatData;
    case Type.DOUBLE:
      return proto.doubleData;
    case Type.INT64:
      return proto.int64Data.map(safe);
    case Type.UINT32:
    case Type.UINT64:
      return proto.uint64Data.map(safe);
    case Type.FLOAT16:
      return proto.int32Data.map(halfToNumber);
    case Type.BFLOAT16:
      return proto.int32Data.map(bfloatToNumber);
    default:
      return proto.int32Data;
  }
}
