/**
 * The file that `wandb sync` reads: Record messages (wandb/proto/wandb_internal.proto) in LevelDB's log format. That is
 * 32 KiB blocks of chunks, each with CRC-32, length and kind. A header of W&B is part of the first block.
 */
import { appendFile, writeFile } from "node:fs/promises";
import { crc32 } from "node:zlib";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

const BLOCK = 32 * 1024;
const CHUNK_HEADER = 7;
const CHUNKS = { full: 1, first: 2, middle: 3, last: 4 } as const;
/** `:W&B`, 0xBEE1, version 0. */
const FILE_HEADER = Uint8Array.of(0x3a, 0x57, 0x26, 0x42, 0xe1, 0xbe, 0);

/** Only appends to its file. `wandb sync` ignores an incomplete end. */
export class WandbLog {
  #written = 0;
  #records = 0;

  private constructor(readonly path: string) {}

  static async create(path: string): Promise<WandbLog> {
    const log = new WandbLog(path);
    await writeFile(path, FILE_HEADER);
    log.#written = FILE_HEADER.length;
    return log;
  }

  async add(record: WandbRecord): Promise<void> {
    const bytes = chunked(recordMessage(++this.#records, record), this.#written);
    await appendFile(this.path, bytes);
    this.#written += bytes.length;
  }
}

/** Splits a record into chunks, for writing at `offset` of the file. */
function chunked(record: Uint8Array, offset: number): Uint8Array {
  const pieces: Uint8Array[] = [];
  let [done, at] = [0, offset];
  do {
    const left = BLOCK - (at % BLOCK);
    if (left < CHUNK_HEADER) {
      pieces.push(new Uint8Array(left));
      at += left;
      continue;
    }
    const data = record.subarray(done, done + left - CHUNK_HEADER);
    const [begins, ends] = [done === 0, done + data.length === record.length];
    const kind = begins ? (ends ? CHUNKS.full : CHUNKS.first) : ends ? CHUNKS.last : CHUNKS.middle;
    const chunk = Buffer.alloc(CHUNK_HEADER + data.length);
    chunk.writeUInt16LE(data.length, 4);
    chunk.writeUInt8(kind, 6);
    chunk.set(data, CHUNK_HEADER);
    chunk.writeUInt32LE(crc32(chunk.subarray(6)), 0);
    pieces.push(chunk);
    done += data.length;
    at += chunk.length;
  } while (done < record.length);
  return Buffer.concat(pieces);
}

export type WandbRecord =
  | { readonly kind: "header" }
  | {
      readonly kind: "run";
      readonly id: string;
      readonly entity: string;
      readonly project: string;
      readonly name: string;
      readonly config: Readonly<Record<string, unknown>>;
      /** Milliseconds since 1970. */
      readonly began: number;
    }
  | { readonly kind: "files"; readonly paths: readonly string[] }
  | { readonly kind: "history"; readonly step: number; readonly values: Readonly<Record<string, unknown>> }
  | { readonly kind: "summary"; readonly values: Readonly<Record<string, unknown>> }
  | { readonly kind: "exit"; readonly code: number; readonly seconds: number };

const nested = WireType.LengthDelimited;
const varint = WireType.Varint;
const message = () => new BinaryWriter();

function recordMessage(number: number, record: WandbRecord): Uint8Array {
  const [field, content] = contentOf(record);
  return message().tag(1, varint).int64(number).tag(field, nested).bytes(content).finish();
}

/** The number of the field in Record, and its message. */
function contentOf(record: WandbRecord): [field: number, content: Uint8Array] {
  switch (record.kind) {
    case "header": {
      // min_consumer: the first version of W&B's client that can read the file.
      const version = message().tag(1, nested).string("alignprop").tag(2, nested).string("0.19.0").finish();
      return [21, message().tag(1, nested).bytes(version).finish()];
    }
    case "run": {
      const { id, entity, project, name, config, began } = record;
      const update = items(config, (key) => message().tag(1, nested).string(key));
      const time = message()
        .tag(1, varint)
        .int64(Math.floor(began / 1000));
      time.tag(2, varint).int32((began % 1000) * 1_000_000);
      const run = message().tag(1, nested).string(id).tag(2, nested).string(entity).tag(3, nested).string(project);
      run.tag(4, nested).bytes(update.finish()).tag(8, nested).string(name);
      return [17, run.tag(17, nested).bytes(time.finish()).finish()];
    }
    case "files": {
      const files = message();
      for (const path of record.paths) files.tag(1, nested).bytes(message().tag(1, nested).string(path).finish());
      return [6, files.finish()];
    }
    case "history": {
      const step = message().tag(1, varint).int64(record.step).finish();
      const history = items(record.values, (key) => message().tag(2, nested).string(key));
      return [2, history.tag(2, nested).bytes(step).finish()];
    }
    case "summary":
      return [3, items(record.values, (key) => message().tag(2, nested).string(key)).finish()];
    case "exit": {
      const { code, seconds } = record;
      return [18, message().tag(1, varint).int32(code).tag(2, varint).int32(Math.round(seconds)).finish()];
    }
  }
}

/** The items of a config, history or summary message: a key, which `keyed` writes, and its value as JSON. */
function items(values: Readonly<Record<string, unknown>>, keyed: (key: string) => BinaryWriter): BinaryWriter {
  const all = message();
  for (const [key, value] of Object.entries(values)) {
    all.tag(1, nested).bytes(keyed(key).tag(16, nested).string(JSON.stringify(value)).finish());
  }
  return all;
}
