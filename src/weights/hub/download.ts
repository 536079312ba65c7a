/**
 * Downloads one file of the hub into the cache. An interrupted download is resumed, the hash is checked, and the file
 * appears under its name only when it is complete.
 */
import { createHash, type Hash, randomUUID } from "node:crypto";
import { type FileHandle, mkdir, open, rename, rm, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { setTimeout } from "node:timers/promises";
import { InputError } from "../../errors/index.js";
import { asInputError } from "../../io/files.js";
import { type HubFetch, HubUnreachable } from "./fetch.js";

/** A file as the hub lists it. */
export interface HubFile {
  readonly path: string;
  readonly bytes: number;
  /** SHA-256 of a large file (Git LFS), otherwise Git's SHA-1 of the blob. Also the blob's name in the cache. */
  readonly hash: string;
}

/** The download fails after this many broken connections in a row without a new byte. */
const MAX_FAILURES = 4;
/** The wait after the first broken connection. It grows by the same amount with each further one. */
const RETRY_DELAY_MS = 200;
const INCOMPLETE_SUFFIX = ".alignprop-incomplete";

export interface DownloadOptions {
  readonly fetch: HubFetch;
  readonly signal?: AbortSignal | undefined;
  /**
   * Called with the number of bytes that arrived, first of all with those of an earlier attempt. Negative when they are
   * discarded.
   */
  readonly onBytes: (bytes: number) => void;
}

/**
 * Downloads `url` to `blob`, and continues a part that an interrupted run left.
 *
 * @throws InputError when the disk or the server fails, HubUnreachable when the connection breaks again and again
 */
export async function downloadBlob(url: string, file: HubFile, blob: string, options: DownloadOptions): Promise<void> {
  const partial = `${blob}${INCOMPLETE_SUFFIX}`;
  // A unique name while it is written, so that two processes never write to the same file.
  const own = `${blob}.${randomUUID()}${INCOMPLETE_SUFFIX}`;
  try {
    await mkdir(dirname(blob), { recursive: true });
    await rename(partial, own).catch(() => {});
    const output = await open(own, "a+");
    try {
      await fill(output, url, file, options);
      await output.sync();
    } finally {
      await output.close();
    }
    await rename(own, blob);
  } catch (error) {
    // Corrupt bytes are truncated before they get here, so the rest can be continued later.
    const left = await stat(own).catch(() => undefined);
    await (left?.size ? rename(own, partial) : rm(own, { force: true })).catch(() => {});
    throw asInputError(error, blob, "write");
  }
}

async function fill(output: FileHandle, url: string, file: HubFile, { fetch, signal, onBytes }: DownloadOptions) {
  let hash = newHash(file);
  let done = await hashExisting(output, hash, file.bytes);
  if (done === undefined) {
    await output.truncate(0);
    hash = newHash(file);
    done = 0;
  }
  onBytes(done);
  let failures = 0;
  while (done < file.bytes) {
    signal?.throwIfAborted();
    const before = done;
    try {
      // Without compression, because the hash and the range count stored bytes.
      const headers = { "Accept-Encoding": "identity", ...(done > 0 && { Range: `bytes=${done}-` }) };
      const response = await fetch(url, { headers, ...(signal && { signal }) });
      if (done > 0 && response.status !== 206) {
        // The server does not support ranges: start again.
        await output.truncate(0);
        onBytes(-done);
        hash = newHash(file);
        done = 0;
      }
      for await (const chunk of response.body ?? []) {
        if (done + chunk.length > file.bytes) {
          await output.truncate(0);
          throw new InputError(
            "server-failed",
            `${url}: sent more than the ${file.bytes} bytes that the hub lists. Nothing was kept. Try again.`,
            { url, expected: file.bytes, found: done + chunk.length },
          );
        }
        await output.writeFile(chunk);
        hash.update(chunk);
        done += chunk.length;
        onBytes(chunk.length);
      }
      if (done < file.bytes) throw new HubUnreachable(url, new Error(`ended after ${done} of ${file.bytes} bytes`));
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof InputError || isFileError(error)) throw error;
      failures = done > before ? 1 : failures + 1;
      if (failures >= MAX_FAILURES) throw error instanceof HubUnreachable ? error : new HubUnreachable(url, error);
      await setTimeout(RETRY_DELAY_MS * failures, undefined, { ...(signal && { signal }) });
    }
  }
  const found = hash.digest("hex");
  if (found !== file.hash) {
    await output.truncate(0);
    throw new InputError(
      "server-failed",
      `${url}: the downloaded file has the hash ${found}, but the hub lists ${file.hash}. Nothing was kept. Try again.`,
      { url, expected: file.hash, found },
    );
  }
}

/** Whether the disk failed, not the network. */
function isFileError(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).syscall === "write" || (error as NodeJS.ErrnoException).code === "ENOSPC";
}

function newHash({ hash, bytes }: HubFile): Hash {
  return hash.length === 64 ? createHash("sha256") : createHash("sha1").update(`blob ${bytes}\0`);
}

/** Adds the bytes that are already there to `hash`. Returns their number; undefined if it is above `maxBytes`. */
async function hashExisting(output: FileHandle, hash: Hash, maxBytes: number): Promise<number | undefined> {
  const { size } = await output.stat();
  if (size > maxBytes) return undefined;
  const piece = new Uint8Array(2 ** 20);
  let done = 0;
  while (done < size) {
    const { bytesRead } = await output.read(piece, 0, piece.length, done);
    if (bytesRead === 0) return undefined;
    hash.update(piece.subarray(0, bytesRead));
    done += bytesRead;
  }
  return done;
}

/** The size of the part of `blob` that an earlier run downloaded. */
export async function partialBytes(blob: string): Promise<number> {
  return (await stat(`${blob}${INCOMPLETE_SUFFIX}`).catch(() => undefined))?.size ?? 0;
}
