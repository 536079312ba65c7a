import type { FileHandle } from "node:fs/promises";
import { inflateRawSync } from "node:zlib";
import { fromRandomAccessReaderPromise, RandomAccessReader } from "yauzl";
import { type ErrorFacts, InputError, quote } from "../errors/index.js";
import { readFully } from "../io/files.js";

/** A file inside a zip, with the location of its bytes. */
export interface ZipEntry {
  readonly name: string;
  readonly compressed: boolean;
  /** Position of its first byte in the zip. */
  readonly offset: number;
  /** Size in the zip, compressed or not. */
  readonly storedBytes: number;
  /** Size when unpacked. */
  readonly bytes: number;
}

/**
 * Checkpoints with optimizer states have about 5,000. The limit only keeps a hostile directory from filling the memory.
 */
const MAX_ENTRIES = 100_000;

/**
 * The entries of a zip by name. Nothing is unpacked: PyTorch stores tensors uncompressed, so they can be used in place.
 * Every entry is checked to lie inside the file.
 */
export async function readZipDirectory(
  file: FileHandle,
  fileBytes: number,
  path: string,
): Promise<ReadonlyMap<string, ZipEntry>> {
  const malformed = (reason: string, facts: ErrorFacts) =>
    new InputError("file-malformed", `${path}: is a damaged zip: ${reason}. Download it again.`, { path, ...facts });
  try {
    const zip = await fromRandomAccessReaderPromise(new FileReader(file, fileBytes), fileBytes, { autoClose: false });
    if (zip.entryCount > MAX_ENTRIES) {
      throw malformed(`it lists ${zip.entryCount} files, more than the ${MAX_ENTRIES} that are supported`, {
        found: zip.entryCount,
        expected: MAX_ENTRIES,
      });
    }
    const entries = new Map<string, ZipEntry>();
    for await (const entry of zip.eachEntry()) {
      const name = entry.fileName;
      if (entries.has(name)) throw malformed(`it has two entries named ${quote(name)}`, { entry: name });
      if (!entry.canDecodeFileData()) {
        throw new InputError(
          "file-unsupported",
          `${path}: ${quote(name)} in this zip is encrypted, or compressed by another method than Deflate. ` +
            "Save the weights again with torch.save.",
          { path, entry: name, method: entry.compressionMethod },
        );
      }
      // The header in front of each file has a variable length, so it must be read to find where the bytes begin.
      const { fileDataStart } = await zip.readLocalFileHeaderPromise(entry, { minimal: true });
      entries.set(name, {
        name,
        compressed: entry.isCompressed(),
        offset: fileDataStart,
        storedBytes: entry.compressedSize,
        bytes: entry.uncompressedSize,
      });
    }
    return entries;
  } catch (error) {
    // yauzl throws plain errors. Errors of the system carry the call that failed.
    if (error instanceof InputError || (error as NodeJS.ErrnoException).syscall) throw error;
    const reason = quote((error as Error).message).slice(1, -1);
    throw malformed(reason, { reason });
  }
}

/** The unpacked content of an entry. The caller must have checked that `entry.bytes` may be allocated. */
export async function readEntry(file: FileHandle, entry: ZipEntry, path: string): Promise<Uint8Array> {
  const stored = new Uint8Array(entry.storedBytes);
  await readFully(file, stored, entry.offset, path);
  if (!entry.compressed) return stored;
  const malformed = (found?: number) => {
    const expected = entry.bytes;
    const reason =
      found === undefined
        ? `cannot be unpacked to the ${expected} bytes that its entry gives`
        : `unpacks to ${found} bytes, but its entry gives ${expected}`;
    return new InputError("file-malformed", `${path}: ${quote(entry.name)} in this zip ${reason}. Download it again.`, {
      path,
      entry: entry.name,
      found,
      expected,
    });
  };
  let content: Uint8Array;
  try {
    content = inflateRawSync(stored, { maxOutputLength: Math.max(1, entry.bytes) });
  } catch {
    throw malformed();
  }
  if (content.length !== entry.bytes) throw malformed(content.length);
  return content;
}

/** One page: the entries of a directory are small and adjacent. */
const READ_AHEAD = 4096;

/**
 * Lets yauzl read from an open file. Like a read at the end of a file, a read of positions outside the file gives fewer
 * bytes, however absurd the position is.
 */
class FileReader extends RandomAccessReader {
  private window = Buffer.alloc(0);
  private windowStart = 0;

  constructor(
    private readonly file: FileHandle,
    private readonly fileBytes: number,
  ) {
    super();
  }

  override read(
    buffer: Buffer,
    offset: number,
    length: number,
    position: number,
    callback: (error: Error | null, bytesRead?: number) => void,
  ): void {
    if (!(position + length <= this.fileBytes)) {
      setImmediate(callback, null, 0);
      return;
    }
    const answer = () => {
      const start = position - this.windowStart;
      callback(null, this.window.copy(buffer, offset, start, start + length));
    };
    const isAhead = position >= this.windowStart && position + length <= this.windowStart + this.window.length;
    if (isAhead) setImmediate(answer);
    else this.fill(position, Math.min(Math.max(length, READ_AHEAD), this.fileBytes - position)).then(answer, callback);
  }

  private async fill(position: number, length: number): Promise<void> {
    const { buffer, bytesRead } = await this.file.read(Buffer.alloc(length), 0, length, position);
    [this.window, this.windowStart] = [buffer.subarray(0, bytesRead), position];
  }
}
