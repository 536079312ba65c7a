import { type DescMessage, fromBinary } from "@bufbuild/protobuf";
import { type ModelProto, ModelProtoSchema } from "onnx-buf";
import { InputError } from "../../errors/index.js";

/** What decoded pieces take in memory, roughly: protobuf packs far more of them into a byte than JavaScript does. */
const BYTES_PER_MESSAGE = 400;
const BYTES_PER_SCALAR = 40;
/** Beside the weights, which are not copied. The largest published models take a few hundred megabytes. */
const MOST_BYTES = 2 ** 30;
/** As the decoder itself has it. */
const DEEPEST = 100;

/** A ModelProto, after a look at what decoding it would take: a few bytes of a hostile file can ask for gigabytes. */
export function decodeModel(bytes: Uint8Array, where: string): ModelProto {
  const scan = new Scan(bytes, where);
  scan.message(0, bytes.length, ModelProtoSchema, 0);
  try {
    return fromBinary(ModelProtoSchema, bytes, { readUnknownFields: false });
  } catch (error) {
    throw new InputError("onnx-unsupported", `${where}: is not an ONNX model: ${(error as Error).message}.`);
  }
}

/** Walks the wire format (https://protobuf.dev/programming-guides/encoding) along the schema, and only counts. */
class Scan {
  private cost = 0;

  constructor(
    private readonly bytes: Uint8Array,
    private readonly where: string,
  ) {}

  message(start: number, end: number, schema: DescMessage, depth: number): void {
    if (depth > DEEPEST) this.fail(`is nested more than ${DEEPEST} levels deep`);
    this.spend(BYTES_PER_MESSAGE);
    for (let at = start; at < end; ) {
      const [tag, content] = this.varint(at, end);
      const [number, wire] = [Math.floor(tag / 8), tag % 8];
      if (number === 0) this.fail(`holds a field without a number at byte ${at}`);
      at = this.field(content, end, wire, schema, number, depth);
    }
  }

  /** Returns where the field ends. */
  private field(at: number, end: number, wire: number, schema: DescMessage, number: number, depth: number): number {
    switch (wire) {
      case 0:
        this.spend(BYTES_PER_SCALAR);
        return this.varint(at, end)[1];
      case 1:
      case 5: {
        this.spend(BYTES_PER_SCALAR);
        const next = at + (wire === 1 ? 8 : 4);
        return next <= end ? next : this.fail(`ends in the middle of a number at byte ${at}`);
      }
      case 2: {
        const [length, content] = this.varint(at, end);
        const next = content + length;
        if (next > end) {
          this.fail(
            `says that ${length} bytes follow byte ${content}, where ${end - content} are left; it was cut off or is no ONNX file`,
          );
        }
        const field = schema.fields.find((known) => known.number === number);
        if (!field) return next;
        if (field.message) this.message(content, next, field.message, depth + 1);
        // A packed list: at most a number a byte.
        else if (field.fieldKind === "list" && field.listKind === "scalar" && isPackable(field.scalar)) {
          this.spend(length * (isFixed(field.scalar) ? 4 : BYTES_PER_SCALAR));
        } else this.spend(BYTES_PER_SCALAR);
        return next;
      }
      default:
        return this.fail(`holds a field of a kind that ONNX does not use (${wire}) at byte ${at}`);
    }
  }

  private varint(at: number, end: number): [value: number, next: number] {
    let value = 0;
    let scale = 1;
    for (let i = at; i < end && i < at + 10; i++) {
      const byte = this.bytes[i] as number;
      value += (byte & 0x7f) * scale;
      scale *= 128;
      if (byte < 0x80) return [value, i + 1];
    }
    return this.fail(`ends in the middle of a number at byte ${at}`);
  }

  private spend(bytes: number): void {
    this.cost += bytes;
    if (this.cost > MOST_BYTES)
      this.fail(`would take more than ${MOST_BYTES / 2 ** 30} GiB to decode, without its weights`);
  }

  private fail(what: string): never {
    throw new InputError("onnx-unsupported", `${this.where}: ${what}. Is it an ONNX file? Fetch or export it again.`);
  }
}

/** Scalar types by the numbers that protobuf's descriptors give them. */
const STRING = 9;
const BYTES = 12;
const FIXED: readonly number[] = [1, 2, 6, 7, 15, 16];
const isPackable = (scalar: number) => scalar !== STRING && scalar !== BYTES;
const isFixed = (scalar: number) => FIXED.includes(scalar);
