import type { FileHandle } from "node:fs/promises";
import { inflateRawSync } from "node:zlib";
import { fromRandomAccessReaderPromise, RandomAccessReader } from "yauzl";
import { InputError, quote } from "../errors/index.js";
import { readFully } from "../io/files.js";

/** A file inside a zip, and where its bytes lie. */
export interface ZipEntry {
  readonly name: string;
  readonly compressed: boolean;
  /** Of its first byte, from the zip's start. */
  readonly offset: number;
  /** Bytes in the zip. */
  readonly storedBytes: number;
  /** Bytes of the file itself. */
  readonly bytes: number;
}

/** Checkpoints with optimizer states have some 5,000; this only keeps a hostile directory from filling the memory. */
const MOST_ENTRIES = 100_000;

/**
 * A zip's entries by name. Nothing is unpacked: PyTorch stores tensors as they are, so they can be used where they lie.
 * That every entry lies inside the file is checked here.
 */
export async function readZipDirectory(
  file: FileHandle,
  fileBytes: number,
  path: string,
): Promise<ReadonlyMap<string, ZipEntry>> {
  const broken = (reason: string) =>
    new InputError("file-malformed", `${path}: is a broken zip: ${reason}. Is it whole? Fetch it again.`);
  try {
    const zip = await fromRandomAccessReaderPromise(new FileReader(file, fileBytes), fileBytes, { autoClose: false });
    if (zip.entryCount > MOST_ENTRIES) throw broken(`it lists ${zip.entryCount} files`);
    const entries = new Map<string, ZipEntry>();
    for await (const entry of zip.eachEntry()) {
      const name = entry.fileName;
      if (entries.has(name)) throw broken(`it holds ${quote(name)} twice`);
      if (!entry.canDecodeFileData()) throw broken(`${quote(name)} in it is encrypted, or packed in a rare way`);
      // How long a file's own header is, and so where its bytes begin, only that header says.
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
    // yauzl's faults are plain errors; those of the system have the call that failed.
    if (error instanceof InputError || (error as NodeJS.ErrnoException).syscall) throw error;
    throw broken(quote((error as Error).message).slice(1, -1));
  }
}

/** An entry's content, unpacked. The caller has seen to it that `entry.bytes` may be allocated. */
export async function readEntry(file: FileHandle, entry: ZipEntry, path: string): Promise<Uint8Array> {
  const stored = new Uint8Array(entry.storedBytes);
  await readFully(file, stored, entry.offset, path);
  if (!entry.compressed) return stored;
  const broken = (reason: string) =>
    new InputError("file-malformed", `${path}: ${quote(entry.name)} in it ${reason}. Fetch it again.`);
  let content: Uint8Array;
  try {
    content = inflateRawSync(stored, { maxOutputLength: Math.max(1, entry.bytes) });
  } catch {
    throw broken(`does not unpack to the ${entry.bytes} bytes that are announced`);
  }
  if (content.length !== entry.bytes) throw broken(`unpacks to ${content.length} bytes, not ${entry.bytes}`);
  return content;
}

/** Reads ahead by a page: a directory's entries are small and follow one another. */
const READ_AHEAD = 4096;

/** How yauzl reads. Places outside the file end a read early, as the end of a file does, however absurd they are. */
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
