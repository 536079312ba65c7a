/** Reads the tensors of an ONNX file, and finds the data of those that are stored in other files. */
import { realpath } from "node:fs/promises";
import { dirname, isAbsolute, join, sep } from "node:path";
import { type TensorProto, TensorProto_DataLocation, TensorProto_DataType } from "onnx-buf";
import { InputError } from "../../errors/index.js";
import { asInputError, readFully, withFile } from "../../io/files.js";
import { BYTES_PER_ELEMENT, bfloatToNumber, type DType, halfToNumber, isFloating } from "../../tensor/dtype.js";
import { fromNumbers } from "../../tensor/host.js";
import { type Shape, showShape, sizeOf } from "../../tensor/shape.js";
import type { StoredTensor } from "../../weights/source.js";
import { ELEMENTS, PACKED, safe, typeName } from "./element-types.js";

/** A tensor of an ONNX file: a small one as numbers, which shape arithmetic computes with, or a weight that stays on disk. */
export type OnnxTensor =
  | { readonly kind: "constant"; readonly shape: Shape; readonly dtype: DType; readonly values: Float64Array }
  | { readonly kind: "weight"; readonly name: string; readonly stored: StoredTensor };

const Type = TensorProto_DataType;

/** Tensors with more elements are weights, which stay on disk. Shapes and indices, which must be constants, are smaller. */
const MAX_CONSTANT_FLOATS = 1024;
const MAX_CONSTANT_INTEGERS = 2 ** 20;
const maxConstant = (dtype: DType) =>
  // Integers of a byte are quantized weights.
  isFloating(dtype) || dtype === "int8" || dtype === "uint8" ? MAX_CONSTANT_FLOATS : MAX_CONSTANT_INTEGERS;
const MAX_RANK = 16;

/** Reads the tensors of one file. `bytes` is the content of that file; the protos must have been decoded from this array. */
export class TensorReader {
  constructor(
    private readonly path: string,
    private readonly realPath: string,
    private readonly bytes: Uint8Array,
  ) {}

  /**
   * `name` becomes the name of the weight.
   *
   * @throws InputError `onnx-unsupported` for an element type that is not supported, `file-malformed` if shape and data do
   * not fit, `path-unsafe` or `file-not-found` if external data is not in the model's folder.
   */
  async read(proto: TensorProto, name: string): Promise<OnnxTensor> {
    const site: Site = { path: this.path, tensor: name.slice(0, 100) };
    const packed = PACKED[proto.dataType];
    if (packed) return this.readPacked(proto, name, packed);
    const element = ELEMENTS[proto.dataType];
    if (!element) {
      const found = typeName(proto.dataType);
      throw new InputError(
        "onnx-unsupported",
        `${show(site)} has the element type ${found}, which is not supported. Export the model in float32, float16 or with integers of 8 bits.`,
        { ...site, found },
      );
    }
    const shape = shapeOf(proto, site);
    const size = sizeOf(shape);
    const length = size * element.bytes;
    const { dtype } = element;
    const isWeight = size > maxConstant(dtype);
    if (isWeight && BYTES_PER_ELEMENT[dtype] !== element.bytes) {
      const found = typeName(proto.dataType);
      throw new InputError(
        "onnx-unsupported",
        `${show(site)} has ${size} elements, but a tensor of type ${found} may have at most ${MAX_CONSTANT_INTEGERS}. Export it as INT64, or as floating point if it is a weight.`,
        { ...site, found, elements: size, limit: MAX_CONSTANT_INTEGERS },
      );
    }
    if (proto.dataLocation === TensorProto_DataLocation.EXTERNAL) {
      const range = await this.external(proto, length, site);
      if (isWeight) return { kind: "weight", name, stored: { kind: "file", dtype, shape, ...range } };
      const raw = new Uint8Array(length);
      await withFile(range.path, (file) => readFully(file, raw, range.offset, range.path));
      return { kind: "constant", dtype, shape, values: numbersOf(raw, element) };
    }
    if (proto.rawData.length > 0 || size === 0) {
      if (proto.rawData.length !== length) {
        const found = proto.rawData.length;
        throw new InputError(
          "file-malformed",
          `${show(site)} is ${typeName(proto.dataType)} ${showShape(shape)}, which takes ${length} bytes, but the file holds ${found}. Export the model again.`,
          { ...site, found, expected: length },
        );
      }
      if (!isWeight) return { kind: "constant", dtype, shape, values: numbersOf(proto.rawData, element) };
      const offset = proto.rawData.byteOffset - this.bytes.byteOffset;
      return { kind: "weight", name, stored: { kind: "file", dtype, shape, path: this.realPath, offset, length } };
    }
    const values = typedNumbers(proto);
    if (values.length !== size) {
      const found = values.length;
      throw new InputError(
        "file-malformed",
        `${show(site)} has the shape ${showShape(shape)}, which takes ${size} elements, but the file holds ${found}. Export the model again.`,
        { ...site, found, expected: size },
      );
    }
    if (!isWeight) return { kind: "constant", dtype, shape, values: Float64Array.from(values) };
    return {
      kind: "weight",
      name,
      stored: { kind: "memory", dtype, shape, data: fromNumbers(values, shape, dtype).data },
    };
  }

  /** Integers of 2 or 4 bits become bytes. */
  private async readPacked(
    proto: TensorProto,
    name: string,
    { bits, isSigned }: { readonly bits: number; readonly isSigned: boolean },
  ): Promise<OnnxTensor> {
    const site: Site = { path: this.path, tensor: name.slice(0, 100) };
    const shape = shapeOf(proto, site);
    const size = sizeOf(shape);
    const length = Math.ceil((size * bits) / 8);
    let raw = proto.rawData.length > 0 ? proto.rawData : Uint8Array.from(proto.int32Data);
    if (proto.dataLocation === TensorProto_DataLocation.EXTERNAL) {
      const range = await this.external(proto, length, site);
      raw = new Uint8Array(length);
      await withFile(range.path, (file) => readFully(file, raw, range.offset, range.path));
    }
    if (raw.length !== length) {
      const found = raw.length;
      throw new InputError(
        "file-malformed",
        `${show(site)} is ${typeName(proto.dataType)} ${showShape(shape)}, which takes ${length} bytes, but the file holds ${found}. Export the model again.`,
        { ...site, found, expected: length },
      );
    }
    const dtype = isSigned ? "int8" : "uint8";
    const perByte = 8 / bits;
    const element = (i: number) => {
      const value = ((raw[Math.floor(i / perByte)] as number) >> (bits * (i % perByte))) & (2 ** bits - 1);
      return isSigned && value >= 2 ** (bits - 1) ? value - 2 ** bits : value;
    };
    if (size <= maxConstant(dtype)) {
      return { kind: "constant", dtype, shape, values: Float64Array.from({ length: size }, (_, i) => element(i)) };
    }
    const data = new (isSigned ? Int8Array : Uint8Array)(size);
    for (let i = 0; i < size; i++) data[i] = element(i);
    return { kind: "weight", name, stored: { kind: "memory", dtype, shape, data } };
  }

  /** The byte range of external data. The file must be in the model's folder or below it. */
  private async external(proto: TensorProto, length: number, site: Site) {
    const entries = new Map(proto.externalData.map(({ key, value }) => [key, value]));
    const location = entries.get("location") ?? "";
    const facts = { ...site, location: location.slice(0, 200) };
    const remedy = "Keep the files of a model together, as they were exported.";
    if (location === "" || isAbsolute(location) || location.split(/[\\/]/).includes("..") || location.includes("\0")) {
      throw new InputError(
        "path-unsafe",
        `${show(site)} has its data at ${JSON.stringify(facts.location)}. The data must be in a file in the model's folder. ${remedy}`,
        facts,
      );
    }
    const beside = join(dirname(this.path), location);
    let path: string;
    try {
      path = await realpath(beside);
      const folders = [await realpath(dirname(this.path)), dirname(this.realPath)];
      // In the cache of the Hugging Face hub, a model and its data are links to files that are side by side elsewhere.
      if (!folders.some((folder) => path.startsWith(folder + sep))) {
        throw new InputError(
          "path-unsafe",
          `${show(site)} has its data at ${JSON.stringify(facts.location)}, a link that leads out of the model's folder. ${remedy}`,
          facts,
        );
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") {
        throw new InputError(
          "file-not-found",
          `${show(site)} has its data in ${beside}, which does not exist. ${remedy}`,
          {
            ...facts,
            path: beside,
            model: this.path,
          },
        );
      }
      throw asInputError(error, beside, "read");
    }
    const offset = integerEntry("offset", entries.get("offset") ?? "0", facts);
    const stated = integerEntry("length", entries.get("length") ?? String(length), facts);
    if (stated !== length) {
      throw new InputError(
        "file-malformed",
        `${show(site)} takes ${length} bytes, but the length of its external data is ${stated}. Export the model again.`,
        { ...facts, found: stated, expected: length },
      );
    }
    await withFile(path, async (_, bytes) => {
      if (offset + length > bytes) {
        throw new InputError(
          "file-malformed",
          `${show(site)} is at bytes ${offset} … ${offset + length} of ${location}, but that file has ${bytes} bytes. Download it again.`,
          { ...facts, offset, expected: offset + length, found: bytes },
        );
      }
    });
    return { path, offset, length };
  }
}

/** The tensor that a message is about. */
type Site = { readonly path: string; readonly tensor: string };

const show = ({ path, tensor }: Site) => `${path}: the tensor ${JSON.stringify(tensor)}`;

function shapeOf({ dims }: TensorProto, site: Site): number[] {
  const shape = dims.map(Number);
  // The limit on elements is far above that of any model.
  if (shape.length > MAX_RANK || shape.some((extent) => extent < 0) || !(sizeOf(shape) <= 2 ** 40)) {
    const found = shape.slice(0, MAX_RANK);
    throw new InputError(
      "file-malformed",
      `${show(site)} has the impossible shape ${showShape(found)}. Export the model again.`,
      { ...site, found },
    );
  }
  return shape;
}

function integerEntry(key: "offset" | "length", text: string, site: Site): number {
  const value = Number(text);
  if (!/^\d{1,16}$/.test(text) || !Number.isSafeInteger(value)) {
    const found = text.slice(0, 40);
    throw new InputError(
      "file-malformed",
      `${show(site)} has external data whose ${key}, ${JSON.stringify(found)}, is not a whole number. Export the model again.`,
      { ...site, key, found },
    );
  }
  return value;
}

function numbersOf(raw: Uint8Array, { bytes, read }: { bytes: number; read: (view: DataView, at: number) => number }) {
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  return Float64Array.from({ length: raw.length / bytes }, (_, i) => read(view, i * bytes));
}

/** The elements of a tensor without raw data. TensorProto has a field for each kind; 16-bit floats are bits in int32. */
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
