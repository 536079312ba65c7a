/** One file of the hub into the cache: resumed where it broke off, checked against its hash, never half there. */
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
  /** SHA-256 of a large file (Git LFS); of others, Git's SHA-1 of its blob. It is also the blob's name in the cache. */
  readonly hash: string;
}

/** Connections break; so many may in a row, without a byte between them. */
const MOST_FAILURES = 4;
/** After the first of them; then longer. */
const MILLISECONDS_TO_WAIT = 200;
const OWN_ENDING = ".alignprop-incomplete";

export interface DownloadOptions {
  readonly fetch: HubFetch;
  readonly signal?: AbortSignal | undefined;
  /** Told of bytes as they arrive, and at first of those that an earlier try left. */
  readonly onBytes: (bytes: number) => void;
}

/** Fetches `url` to `blob`. A part that an interrupted run left is taken up again. */
export async function downloadBlob(url: string, file: HubFile, blob: string, options: DownloadOptions): Promise<void> {
  const waiting = `${blob}${OWN_ENDING}`;
  // Under a name of its own while it is written, so that two processes never write to one file.
  const own = `${blob}.${randomUUID()}${OWN_ENDING}`;
  try {
    await mkdir(dirname(blob), { recursive: true });
    await rename(waiting, own).catch(() => {});
    const output = await open(own, "a+");
    try {
      await fill(output, url, file, options);
      await output.sync();
    } finally {
      await output.close();
    }
    await rename(own, blob);
  } catch (error) {
    // What was corrupt is gone already; what is left is sound as far as it goes.
    const left = await stat(own).catch(() => undefined);
    await (left?.size ? rename(own, waiting) : rm(own, { force: true })).catch(() => {});
    throw asInputError(error, blob, "write");
  }
}

async function fill(output: FileHandle, url: string, file: HubFile, { fetch, signal, onBytes }: DownloadOptions) {
  let hash = newHash(file);
  let done = await hashWhatIsThere(output, hash, file.bytes);
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
      // As it is stored: the hash is of that, and so are the places in it.
      const headers = { "Accept-Encoding": "identity", ...(done > 0 && { Range: `bytes=${done}-` }) };
      const response = await fetch(url, { headers, ...(signal && { signal }) });
      if (done > 0 && response.status !== 206) {
        // The server knows no ranges: from the start.
        await output.truncate(0);
        onBytes(-done);
        hash = newHash(file);
        done = 0;
      }
      for await (const chunk of response.body ?? []) {
        if (done + chunk.length > file.bytes) {
          await output.truncate(0);
          throw new InputError(
            "hub-not-found",
            `${url}: gives more than the ${file.bytes} bytes that the hub lists; nothing was kept.`,
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
      if (failures >= MOST_FAILURES) throw error instanceof HubUnreachable ? error : new HubUnreachable(url, error);
      await setTimeout(MILLISECONDS_TO_WAIT * failures, undefined, { ...(signal && { signal }) });
    }
  }
  if (hash.digest("hex") !== file.hash) {
    await output.truncate(0);
    throw new InputError(
      "hub-not-found",
      `${url}: what arrived is not what the hub lists (its hash differs); nothing was kept. Try again.`,
    );
  }
}

/** The file's own disk is at fault, not the network. */
function isFileError(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).syscall === "write" || (error as NodeJS.ErrnoException).code === "ENOSPC";
}

function newHash({ hash, bytes }: HubFile): Hash {
  return hash.length === 64 ? createHash("sha256") : createHash("sha1").update(`blob ${bytes}\0`);
}

/** The bytes already there; undefined where there are too many to be the beginning. */
async function hashWhatIsThere(output: FileHandle, hash: Hash, most: number): Promise<number | undefined> {
  const { size } = await output.stat();
  if (size > most) return undefined;
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

/** Bytes of a download that an earlier run left, for the sum of what is still to come. */
export async function leftBytes(blob: string): Promise<number> {
  return (await stat(`${blob}${OWN_ENDING}`).catch(() => undefined))?.size ?? 0;
}
