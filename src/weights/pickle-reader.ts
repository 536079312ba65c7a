import { type ErrorFacts, InputError, quote } from "../errors/index.js";

/** Python's integers are unbounded. The longest in a checkpoint, states of random generators, take 17 bytes. */
const MAX_INTEGER_BYTES = 255;

/**
 * Reads the operands of a pickle's opcodes: numbers, strings and bytes, in the binary encodings of protocols 1 to 5 and
 * in the text encodings of protocol 0. https://docs.python.org/3/library/pickletools.html
 */
export class PickleReader {
  private readonly view: DataView;

  /**
   * @param path the file, for error messages
   * @param at the position of the next byte
   */
  constructor(
    private readonly bytes: Uint8Array,
    private readonly path: string,
    private at: number,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get position(): number {
    return this.at;
  }

  fail(reason: string, facts: ErrorFacts = {}): never {
    throw new InputError(
      "file-malformed",
      `${this.path}: cannot be read: ${reason} (at byte ${this.at} of its pickle). Is it the right file, and complete? ` +
        "Download it again, or save its state_dict as safetensors.",
      { path: this.path, offset: this.at, ...facts },
    );
  }

  take(length: number): Uint8Array {
    const left = this.bytes.length - this.at;
    if (!(length <= left)) {
      this.fail(`it is truncated: ${length} more bytes were expected, but ${left} are left`, {
        expected: length,
        found: left,
      });
    }
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  byte(): number {
    return this.take(1)[0] as number;
  }

  uint16(): number {
    this.take(2);
    return this.view.getUint16(this.at - 2, true);
  }

  int32(): number {
    this.take(4);
    return this.view.getInt32(this.at - 4, true);
  }

  uint32(): number {
    this.take(4);
    return this.view.getUint32(this.at - 4, true);
  }

  /** A length. One above 2^53 loses its last digits, but no file is that long. */
  uint64(): number {
    this.take(8);
    return Number(this.view.getBigUint64(this.at - 8, true));
  }

  /** Big-endian, unlike the integers. */
  float64(): number {
    this.take(8);
    return this.view.getFloat64(this.at - 8);
  }

  /** Two's complement, little-endian. */
  integer(length: number): number | bigint {
    if (length > MAX_INTEGER_BYTES) {
      this.fail(`it has an integer of ${length} bytes, more than the ${MAX_INTEGER_BYTES} that are supported`, {
        found: length,
        expected: MAX_INTEGER_BYTES,
      });
    }
    if (length === 0) return 0;
    const digits = Buffer.from(this.take(length)).reverse().toString("hex");
    return simplest(BigInt.asIntN(8 * length, BigInt(`0x${digits}`)));
  }

  text(length: number): string {
    return this.asUtf8(this.take(length));
  }

  /** A str of Python 2, which may be text or bytes. */
  python2String(length: number): string | Uint8Array {
    const bytes = this.take(length);
    return decodeUtf8(bytes) ?? bytes;
  }

  line(): string {
    return this.asUtf8(this.lineBytes());
  }

  /** An integer on a line of its own. Before protocol 2, 00 and 01 are False and True. */
  decimal(): number | bigint | boolean {
    const line = this.line();
    if (line === "00" || line === "01") return line === "01";
    const digits = line.replace(/L$/, "");
    if (!/^-?\d{1,600}$/.test(digits)) this.fail(`${quote(line)} is not an integer`, mismatch("integer", quote(line)));
    return simplest(BigInt(digits));
  }

  /** A float on a line of its own. */
  decimalFloat(): number {
    const line = this.line();
    if (!/^([+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|-?inf|nan)$/i.test(line)) {
      this.fail(`${quote(line)} is not a number`, mismatch("number", quote(line)));
    }
    return Number(line.replace(/inf/i, "Infinity"));
  }

  /** A string of protocol 0: Latin-1, with other characters as \\u and four digits or \\U and eight. */
  latinText(): string {
    const line = Buffer.from(this.lineBytes()).toString("latin1");
    return line.replace(/\\u([0-9a-fA-F]{4})|\\U00([0-9a-fA-F]{6})/g, (escaped, short?: string, long?: string) => {
      const codePoint = Number.parseInt(short ?? long ?? "", 16);
      if (codePoint > 0x10ffff) this.fail(`${escaped} is not a Unicode character`, mismatch("Unicode", escaped));
      return String.fromCodePoint(codePoint);
    });
  }

  /** A str of Python 2 in protocol 0. Names and versions need none of its escapes. */
  quotedText(): string {
    const line = this.line();
    const [, , text = ""] =
      /^(['"])(.*)\1$/.exec(line) ?? this.fail("it has a string without quotes", { found: quote(line) });
    if (text.includes("\\")) {
      this.fail("it has a string with escapes; save it with protocol 2", { found: quote(line) });
    }
    return text;
  }

  memoIndex(): number {
    const index = this.decimal();
    if (typeof index === "number" && index >= 0) return index;
    const found = String(index);
    return this.fail(`${quote(found)} is not an index of the memo`, mismatch("memo index", found));
  }

  private lineBytes(): Uint8Array {
    const end = this.bytes.indexOf(0x0a, this.at);
    if (end < 0) this.fail("it is truncated inside a line", { expected: "end of line" });
    return this.take(end + 1 - this.at).subarray(0, -1);
  }

  private asUtf8(bytes: Uint8Array): string {
    return decodeUtf8(bytes) ?? this.fail("it has a string that is not UTF-8", { expected: "UTF-8" });
  }
}

function mismatch(expected: string, found: string): ErrorFacts {
  return { expected, found };
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function decodeUtf8(bytes: Uint8Array): string | undefined {
  try {
    return utf8.decode(bytes);
  } catch {
    return undefined;
  }
}

function simplest(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
