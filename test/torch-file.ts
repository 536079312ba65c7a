/** Builds files in PyTorch's format by hand, both valid and invalid ones. */
import { crc32 } from "node:zlib";

/** A part of a pickle: opcodes as a string with one character per byte, or bytes. */
export type Part = string | Uint8Array;

export const join = (...parts: readonly Part[]): Buffer =>
  Buffer.concat(parts.map((part) => (typeof part === "string" ? Buffer.from(part, "latin1") : part)));

/** Protocol 2, the parts, STOP. */
export const pickle = (...parts: readonly Part[]): Buffer => join("\x80\x02", ...parts, ".");

export function text(value: string): Buffer {
  const bytes = Buffer.from(value, "utf8");
  return join("X", uint32(bytes.length), bytes);
}

/** An integer of 32 bits, or of 64 bits if it does not fit. */
export function int(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64LE(BigInt(value));
  return Math.abs(value) < 2 ** 31 ? join("J", bytes.subarray(0, 4)) : join("\x8a\x08", bytes);
}

export const tuple = (...parts: readonly Part[]): Buffer => join("(", ...parts, "t");
export const dict = (entries: Readonly<Record<string, Part>>): Buffer =>
  join("}(", ...Object.entries(entries).flatMap(([key, value]) => [text(key), value]), "u");

export interface View {
  readonly key?: string;
  readonly storageClass?: string;
  /** Number of elements in the header of the storage. */
  readonly elements: number;
  readonly offset?: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
}

/** A call of `_rebuild_tensor_v2`, as torch.save writes it. */
export function tensor({
  key = "0",
  storageClass = "FloatStorage",
  elements,
  offset = 0,
  shape,
  strides,
}: View): Buffer {
  const id = tuple(text("storage"), `ctorch\n${storageClass}\n`, text(key), text("cpu"), int(elements));
  const list = (values: readonly number[]) => tuple(...values.map(int));
  const hooks = "ccollections\nOrderedDict\n)R";
  return join(
    "ctorch._utils\n_rebuild_tensor_v2\n",
    tuple(id, "Q", int(offset), list(shape), list(strides), "\x89", hooks),
    "R",
  );
}

export interface ZipContent {
  readonly name: string;
  readonly content: Uint8Array;
  /** Compression method and size in the header; by default those of a stored entry. */
  readonly method?: number;
  readonly size?: number;
}

/** A zip with these contents, which are not compressed here. */
export function zip(contents: readonly ZipContent[]): Buffer {
  const files: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const { name, content, method = 0, size = content.length } of contents) {
    const nameBytes = Buffer.from(name, "utf8");
    // Flags, method, time, date, CRC, both sizes, length of the name and of the extra field.
    const shared = Buffer.alloc(24);
    shared.writeUInt16LE(0x800, 0);
    shared.writeUInt16LE(method, 2);
    shared.writeUInt32LE(method === 0 ? crc32(content) : 0, 8);
    shared.writeUInt32LE(content.length, 12);
    shared.writeUInt32LE(size, 16);
    shared.writeUInt16LE(nameBytes.length, 20);
    files.push(join("PK\x03\x04\x14\x00", shared, nameBytes, content));
    directory.push(join("PK\x01\x02\x14\x00\x14\x00", shared, Buffer.alloc(10), uint32(at), nameBytes));
    at += files.at(-1)?.length ?? 0;
  }
  const end = Buffer.alloc(18);
  end.writeUInt16LE(contents.length, 4);
  end.writeUInt16LE(contents.length, 6);
  end.writeUInt32LE(join(...directory).length, 8);
  end.writeUInt32LE(at, 12);
  return join(...files, ...directory, "PK\x05\x06", end);
}

/** The zip layout of torch.save: data.pkl and storages by key. */
export const torchZip = (data: Uint8Array, storages: Readonly<Record<string, Uint8Array>> = {}): Buffer =>
  zip([
    { name: "archive/data.pkl", content: data },
    ...Object.entries(storages).map(([key, content]) => ({ name: `archive/data/${key}`, content })),
    { name: "archive/version", content: Buffer.from("3\n") },
  ]);

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
