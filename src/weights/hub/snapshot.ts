/**
 * A model of the hub as a folder: `snapshots/<commit>/` in the cache that Python's libraries share, with links into
 * `blobs/`. Only what the caller picks is fetched, so the folder may hold less than the repository, and more another time.
 *
 * @huggingface/hub asks the hub for the commit and its files. Its own download to the cache is not used: it names blobs as
 * the server says, prints to stdout, and neither checks hashes nor goes on where a connection broke.
 */
import { copyFile, lstat, mkdir, readdir, readFile, rm, stat, statfs, symlink } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { listFiles, modelInfo } from "@huggingface/hub";
import { InputError } from "../../errors/index.js";
import { writeFileAtomic } from "../../io/atomic.js";
import { showBytes } from "../../io/bytes.js";
import { asInputError, exists } from "../../io/files.js";
import { downloadBlob, type HubFile, leftBytes } from "./download.js";
import { type HubFetch, HubUnreachable, hubFetch } from "./fetch.js";
import { COMMIT, type Hub, type HubId, isSafePath, repoFolder, showId } from "./id.js";

/**
 * Which of a repository's files are needed. `fetch` gives one of them as a local file, for choices that depend on what it
 * says. Throws an InputError where they do not make up what is wanted.
 */
export type Choose = (paths: readonly string[], fetch: (path: string) => Promise<string>) => Promise<readonly string[]>;

export interface FetchProgress {
  /** The model, as the user wrote it. */
  readonly what: string;
  readonly file: string;
  /** Bytes of all files that are being fetched for it. */
  readonly done: number;
  readonly total: number;
}

export interface SnapshotOptions {
  readonly hub: Hub;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: FetchProgress) => void) | undefined;
  /** Told where the cache had to do. */
  readonly note?: ((message: string) => void) | undefined;
}

/** The snapshot's folder, with the files that `choose` picks in it. */
export async function snapshot(id: HubId, choose: Choose, options: SnapshotOptions): Promise<string> {
  const { hub, note = () => {} } = options;
  if (hub.offline) return cached(id, choose, hub, "the hub is not asked (offline)");
  // A commit never changes: what is there of it needs no question.
  if (COMMIT.test(id.revision)) {
    const folder = await cached(id, choose, hub, "").catch(() => undefined);
    if (folder !== undefined) return folder;
  }
  try {
    return await fetched(id, choose, options);
  } catch (error) {
    if (!(error instanceof HubUnreachable)) throw error;
    const folder = await cached(id, choose, hub, error.message);
    note(`${error.message}; ${showId(id)} is taken from the cache`);
    return folder;
  }
}

async function cached(id: HubId, choose: Choose, hub: Hub, why: string): Promise<string> {
  const storage = repoFolder(hub, id);
  const commit = COMMIT.test(id.revision)
    ? id.revision
    : (await readFile(join(storage, "refs", id.revision), "utf8").catch(() => "")).trim();
  const folder = join(storage, "snapshots", commit);
  if (!COMMIT.test(commit) || !(await exists(folder))) {
    throw new InputError(
      "hub-not-found",
      `model ${showId(id)}: is no folder here and not in the cache ${hub.cache}, and ${why}. Fetch it once with the network, or name a folder.`,
    );
  }
  const paths: string[] = [];
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    // Links whose blob is gone do not count.
    if (!entry.isDirectory() && (await exists(path))) paths.push(relative(folder, path).replaceAll("\\", "/"));
  }
  try {
    const chosen = await choose(paths, async (path) => join(folder, path));
    const missing = chosen.find((path) => !paths.includes(path));
    if (missing !== undefined) throw new InputError("hub-not-found", `${missing} is missing`);
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    throw new InputError(
      "hub-not-found",
      `model ${showId(id)}: the cache ${hub.cache} holds only a part of it, and ${why}. Fetch it once with the network. (${error.message})`,
    );
  }
  return folder;
}

async function fetched(id: HubId, choose: Choose, options: SnapshotOptions): Promise<string> {
  const { hub, signal, onProgress = () => {} } = options;
  const storage = repoFolder(hub, id);
  const fetch = hubFetch(hub, id);
  const { sha: commit, files } = await contents(id, hub, fetch);
  const folder = join(storage, "snapshots", commit);
  const blobOf = ({ hash }: HubFile) => join(storage, "blobs", hash);

  const fetchFiles = async (wanted: readonly HubFile[]) => {
    const absent: HubFile[] = [];
    for (const file of wanted) if (!(await exists(join(folder, file.path)))) absent.push(file);
    const total = absent.reduce((sum, { bytes }) => sum + bytes, 0);
    await requireSpace(storage, absent, blobOf, id);
    let done = 0;
    for (const file of absent) {
      signal?.throwIfAborted();
      const blob = blobOf(file);
      const tell = (bytes: number) => {
        done += bytes;
        onProgress({ what: showId(id), file: file.path, done, total });
      };
      if (await exists(blob)) tell(file.bytes);
      else await downloadBlob(addressOf(id, hub, commit, file), file, blob, { fetch, signal, onBytes: tell });
      await link(blob, join(folder, file.path));
    }
  };
  const find = (path: string): HubFile => {
    const file = files.get(path);
    if (!file) throw new InputError("hub-not-found", `model ${showId(id)}: has no file ${path} on ${hub.endpoint}.`);
    return file;
  };
  const chosen = await choose([...files.keys()], async (path) => {
    await fetchFiles([find(path)]);
    return join(folder, path);
  });
  await fetchFiles(chosen.map(find));
  // Last, so that without the network the revision still leads to a snapshot that is whole.
  if (id.revision !== commit) {
    const ref = join(storage, "refs", id.revision);
    await mkdir(dirname(ref), { recursive: true });
    await writeFileAtomic(ref, commit);
  }
  return folder;
}

/** More than any model has; keeps a server from listing for ever. */
const MOST_FILES = 20_000;
const HASH = /^([0-9a-f]{40}|[0-9a-f]{64})$/;

/** The commit behind a revision, and its files. Nothing that the server says becomes a path before it was checked. */
async function contents(id: HubId, hub: Hub, fetch: HubFetch): Promise<{ sha: string; files: Map<string, HubFile> }> {
  const request = { hubUrl: hub.endpoint, fetch: fetch as typeof globalThis.fetch };
  const strange = (what: string): never => {
    throw new InputError(
      "hub-not-found",
      `model ${showId(id)}: ${hub.endpoint} ${what}. Is it a hub of Hugging Face models (HF_ENDPOINT)?`,
    );
  };
  try {
    const { sha } = await modelInfo({ ...request, name: id.repo, revision: id.revision, additionalFields: ["sha"] });
    if (typeof sha !== "string" || !COMMIT.test(sha)) return strange("gives no commit");
    const files = new Map<string, HubFile>();
    let count = 0;
    for await (const entry of listFiles({ ...request, repo: id.repo, revision: sha, recursive: true })) {
      if (++count > MOST_FILES) strange(`lists more than ${MOST_FILES} files`);
      if (entry.type !== "file") continue;
      const hash = entry.lfs?.oid ?? entry.oid;
      const bytes = entry.lfs?.size ?? entry.size;
      if (typeof entry.path !== "string" || !isSafePath(entry.path)) {
        strange(`lists a file called ${JSON.stringify(entry.path)?.slice(0, 100)}, which could lie outside its folder`);
      }
      if (typeof hash !== "string" || !HASH.test(hash) || !Number.isSafeInteger(bytes) || bytes < 0) {
        strange(`says neither size nor hash of ${entry.path}`);
      }
      files.set(entry.path, { path: entry.path, bytes, hash: hash as string });
    }
    return { sha, files };
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof TypeError) return strange("answers in another form");
    throw error;
  }
}

function addressOf({ repo }: HubId, { endpoint }: Hub, commit: string, { path }: HubFile): string {
  return `${endpoint}/${repo}/resolve/${commit}/${path.split("/").map(encodeURIComponent).join("/")}`;
}

async function requireSpace(
  storage: string,
  files: readonly HubFile[],
  blobOf: (file: HubFile) => string,
  id: HubId,
): Promise<void> {
  await mkdir(storage, { recursive: true }).catch((error) => {
    throw asInputError(error, storage, "write");
  });
  let needed = 0;
  for (const file of files) {
    if (!(await exists(blobOf(file)))) needed += Math.max(0, file.bytes - (await leftBytes(blobOf(file))));
  }
  const { bavail, bsize } = await statfs(storage);
  if (needed <= bavail * bsize) return;
  throw new InputError(
    "hub-not-found",
    `model ${showId(id)}: takes ${showBytes(needed)}, but the disk of ${storage} has ${showBytes(bavail * bsize)} left. Set HF_HOME to a folder with more room.`,
  );
}

/** A relative link, so that the cache can move; a copy where the system has no links. */
async function link(blob: string, path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  if (await lstat(path).catch(() => undefined)) {
    if (await exists(path)) return;
    await rm(path, { force: true });
  }
  try {
    await symlink(relative(dirname(path), blob), path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST" && (await stat(path).catch(() => undefined))) return;
    await copyFile(blob, path);
  }
}
