/** Decodes the protobuf of an ONNX file, without letting a small hostile file fill the memory. */
import { type DescMessage, fromBinary } from "@bufbuild/protobuf";
import { type ModelProto, ModelProtoSchema } from "onnx-buf";
import { type ErrorFacts, InputError } from "../../errors/index.js";

/** Rough memory that one decoded message or scalar takes. In the file, each may take as little as a byte or two. */
const BYTES_PER_MESSAGE = 400;
const BYTES_PER_SCALAR = 40;
/** Limit on the decoded size, apart from weights, which are not copied. The largest published models take a few hundred MB. */
const MAX_BYTES = 2 ** 30;
/** The limit of the protobuf decoder itself. */
const MAX_DEPTH = 100;

/**
 * Decodes a ModelProto, after a scan that estimates how much memory the result takes.
 *
 * @throws InputError `file-malformed` if the bytes are not an ONNX file, `file-too-large` if decoding would take over 1 GiB.
 */
export function decodeModel(bytes: Uint8Array, path: string): ModelProto {
  const scan = new Scan(bytes, path);
  scan.message(0, bytes.length, ModelProtoSchema, 0);
  try {
    return fromBinary(ModelProtoSchema, bytes, { readUnknownFields: false });
  } catch (error) {
    const reason = (error as Error).message;
    throw new InputError("file-malformed", `${path}: the file is not an ONNX model: ${reason}.`, { path, reason });
  }
}

interface Field {
  readonly number: number;
  /** Wire type: 0 varint, 1 fixed 64 bits, 2 length-delimited, 5 fixed 32 bits. */
  readonly wire: number;
  /** The message that holds the field. */
  readonly schema: DescMessage;
  readonly depth: number;
}

/** Walks the wire format (https://protobuf.dev/programming-guides/encoding) along the schema and adds up the memory. */
class Scan {
  private cost = 0;

  constructor(
    private readonly bytes: Uint8Array,
    private readonly path: string,
  ) {}

  message(start: number, end: number, schema: DescMessage, depth: number): void {
    if (depth > MAX_DEPTH) this.fail(`messages are nested more than ${MAX_DEPTH} levels deep`, { limit: MAX_DEPTH });
    this.spend(BYTES_PER_MESSAGE);
    for (let at = start; at < end; ) {
      const [tag, content] = this.varint(at, end);
      const [number, wire] = [Math.floor(tag / 8), tag % 8];
      if (number === 0) this.fail(`the field at byte ${at} has no number`, { offset: at });
      at = this.field({ number, wire, schema, depth }, content, end);
    }
  }

  /** Returns the position after the field. */
  private field({ number, wire, schema, depth }: Field, at: number, end: number): number {
    switch (wire) {
      case 0:
        this.spend(BYTES_PER_SCALAR);
        return this.varint(at, end)[1];
      case 1:
      case 5: {
        this.spend(BYTES_PER_SCALAR);
        const next = at + (wire === 1 ? 8 : 4);
        return next <= end ? next : this.failInNumber(at);
      }
      case 2: {
        const [length, content] = this.varint(at, end);
        const next = content + length;
        if (next > end) {
          const left = end - content;
          this.fail(`${length} bytes should follow byte ${content}, but only ${left} are left`, {
            offset: content,
            expected: length,
            found: left,
          });
        }
        const field = schema.fields.find((known) => known.number === number);
        if (!field) return next;
        if (field.message) this.message(content, next, field.message, depth + 1);
        // A packed list holds at most one number per byte.
        else if (field.fieldKind === "list" && field.listKind === "scalar" && isPackable(field.scalar)) {
          this.spend(length * (isFixed(field.scalar) ? 4 : BYTES_PER_SCALAR));
        } else this.spend(BYTES_PER_SCALAR);
        return next;
      }
      default:
        return this.fail(`the field at byte ${at} has wire type ${wire}, which ONNX does not use`, {
          offset: at,
          found: wire,
        });
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
    return this.failInNumber(at);
  }

  private spend(bytes: number): void {
    this.cost += bytes;
    if (this.cost <= MAX_BYTES) return;
    throw new InputError(
      "file-too-large",
      `${this.path}: decoding the file would take more than ${MAX_BYTES / 2 ** 30} GiB, apart from its weights. Is it an ONNX file?`,
      { path: this.path, limit: MAX_BYTES },
    );
  }

  private failInNumber(offset: number): never {
    return this.fail(`the file ends in the middle of the number at byte ${offset}`, { offset });
  }

  private fail(problem: string, facts: ErrorFacts): never {
    throw new InputError(
      "file-malformed",
      `${this.path}: ${problem}. Is it an ONNX file? If so, it is damaged: download or export it again.`,
      { path: this.path, ...facts },
    );
  }
}

/** Scalar types, by the numbers that protobuf's descriptors give them. */
const STRING = 9;
const BYTES = 12;
const FIXED: readonly number[] = [1, 2, 6, 7, 15, 16];
const isPackable = (scalar: number) => scalar !== STRING && scalar !== BYTES;
const isFixed = (scalar: number) => FIXED.includes(scalar);
