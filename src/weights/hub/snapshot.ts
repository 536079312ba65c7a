/**
 * Downloads a model of the hub to a folder: `snapshots/<commit>/` in the cache that is shared with Python's libraries,
 * with links to `blobs/`. Only the files that the caller chooses are downloaded, so the folder may have fewer files
 * than the repository.
 *
 * The package @huggingface/hub asks the hub for the commit and its files. Its own download to the cache is not used,
 * because it takes names of blobs from the server, prints to stdout, does not check hashes, and does not resume.
 */
import { copyFile, lstat, mkdir, readdir, readFile, rm, stat, statfs, symlink } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { type ErrorFacts, InputError, quote } from "../../errors/index.js";
import { writeFileAtomic } from "../../io/atomic.js";
import { showBytes } from "../../io/bytes.js";
import { asInputError, exists } from "../../io/files.js";
import { downloadBlob, type HubFile, partialBytes } from "./download.js";
import { type HubFetch, HubUnreachable, hubFetch } from "./fetch.js";
import { COMMIT, type Hub, type HubId, isSafePath, repoFolder, showId } from "./id.js";

/**
 * Chooses the files of a repository that are needed. `fetch` downloads one of them and returns its local path, for
 * choices that depend on its content. Throws an InputError if the repository lacks files.
 */
export type Choose = (paths: readonly string[], fetch: (path: string) => Promise<string>) => Promise<readonly string[]>;

export interface FetchProgress {
  /** The model, as the user gave it. */
  readonly what: string;
  readonly file: string;
  /** Bytes that have been downloaded, and the total of all chosen files. */
  readonly done: number;
  readonly total: number;
}

export interface SnapshotOptions {
  readonly hub: Hub;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: FetchProgress) => void) | undefined;
  /** Receives a message when the hub cannot be reached and the cache is used instead. */
  readonly note?: ((message: string) => void) | undefined;
}

/**
 * The folder of the snapshot, with the files that `choose` returns.
 *
 * @throws InputError when the hub refuses, when it cannot be reached and the cache lacks files, or if the disk is full
 */
export async function snapshot(id: HubId, choose: Choose, options: SnapshotOptions): Promise<string> {
  const { hub, note = () => {} } = options;
  if (hub.offline) return cached(id, choose, hub, "the hub is not asked (offline)");
  // A commit never changes, so a cached one can be used without asking.
  if (COMMIT.test(id.revision)) {
    const folder = await cached(id, choose, hub, "").catch(() => undefined);
    if (folder !== undefined) return folder;
  }
  try {
    return await download(id, choose, options);
  } catch (error) {
    if (!(error instanceof HubUnreachable)) throw error;
    const folder = await cached(id, choose, hub, error.message);
    note(`${error.message}; ${showId(id)} is taken from the cache`);
    return folder;
  }
}

/**
 * The folder of the snapshot from the cache alone.
 *
 * @param reason why the hub is not used, for error messages
 */
async function cached(id: HubId, choose: Choose, hub: Hub, reason: string): Promise<string> {
  const storage = repoFolder(hub, id);
  const commit = COMMIT.test(id.revision)
    ? id.revision
    : (await readFile(join(storage, "refs", id.revision), "utf8").catch(() => "")).trim();
  const folder = join(storage, "snapshots", commit);
  if (!COMMIT.test(commit) || !(await exists(folder))) {
    throw new InputError(
      "hub-unreachable",
      `model ${showId(id)}: is not a local folder and not in the cache ${hub.cache}, and ${reason}. ` +
        "Download it once with network access, or give a local folder.",
      { model: showId(id), path: hub.cache, offline: hub.offline, reason },
    );
  }
  const paths: string[] = [];
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    // Links to missing blobs do not count.
    if (!entry.isDirectory() && (await exists(path))) paths.push(relative(folder, path).replaceAll("\\", "/"));
  }
  try {
    const chosen = await choose(paths, async (path) => join(folder, path));
    const missing = chosen.find((path) => !paths.includes(path));
    if (missing !== undefined) throw new InputError("model-incomplete", `${missing} is missing`, { missing });
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    throw new InputError(
      "hub-unreachable",
      `model ${showId(id)}: the cache ${hub.cache} has only a part of it, and ${reason}. ` +
        `Download it once with network access. (${error.message})`,
      { ...error.facts, model: showId(id), path: hub.cache, offline: hub.offline, reason },
      { cause: error },
    );
  }
  return folder;
}

/** The folder of the snapshot, with the chosen files downloaded. */
async function download(id: HubId, choose: Choose, options: SnapshotOptions): Promise<string> {
  const { hub, signal, onProgress = () => {} } = options;
  const storage = repoFolder(hub, id);
  const fetch = hubFetch(hub, id);
  const { commit, files } = await listRepository(id, hub, fetch);
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
      const onBytes = (bytes: number) => {
        done += bytes;
        onProgress({ what: showId(id), file: file.path, done, total });
      };
      if (await exists(blob)) onBytes(file.bytes);
      else await downloadBlob(addressOf(id, hub, commit, file), file, blob, { fetch, signal, onBytes });
      await link(blob, join(folder, file.path));
    }
  };
  const find = (path: string): HubFile => {
    const file = files.get(path);
    if (file) return file;
    throw new InputError("hub-not-found", `model ${showId(id)}: has no file ${path} on ${hub.endpoint}.`, {
      model: showId(id),
      file: path,
      endpoint: hub.endpoint,
    });
  };
  const chosen = await choose([...files.keys()], async (path) => {
    await fetchFiles([find(path)]);
    return join(folder, path);
  });
  await fetchFiles(chosen.map(find));
  // The ref is written last, so that offline a revision never leads to an incomplete snapshot.
  if (id.revision !== commit) {
    const ref = join(storage, "refs", id.revision);
    await mkdir(dirname(ref), { recursive: true });
    await writeFileAtomic(ref, commit);
  }
  return folder;
}

/** More files than any model has. The limit keeps a server from listing files for ever. */
const MAX_FILES = 20_000;
const HASH = /^([0-9a-f]{40}|[0-9a-f]{64})$/;

interface Repository {
  readonly commit: string;
  readonly files: Map<string, HubFile>;
}

/** The commit of a revision, and its files. Everything that becomes a path is checked first. */
async function listRepository(id: HubId, hub: Hub, fetch: HubFetch): Promise<Repository> {
  const request = { hubUrl: hub.endpoint, fetch: fetch as typeof globalThis.fetch };
  const refuse = (problem: string, facts: ErrorFacts = {}): never => {
    throw new InputError(
      "server-failed",
      `model ${showId(id)}: ${hub.endpoint} ${problem}. Is HF_ENDPOINT the address of a Hugging Face hub?`,
      { model: showId(id), endpoint: hub.endpoint, ...facts },
    );
  };
  try {
    // Loaded only when the hub is asked.
    const { listFiles, modelInfo } = await import("@huggingface/hub");
    const { sha: commit } = await modelInfo({
      ...request,
      name: id.repo,
      revision: id.revision,
      additionalFields: ["sha"],
    });
    if (typeof commit !== "string" || !COMMIT.test(commit)) return refuse("gives no commit", { missing: "commit" });
    const files = new Map<string, HubFile>();
    let count = 0;
    for await (const entry of listFiles({ ...request, repo: id.repo, revision: commit, recursive: true })) {
      if (++count > MAX_FILES) refuse(`lists more than ${MAX_FILES} files`, { expected: MAX_FILES });
      if (entry.type !== "file") continue;
      const hash = entry.lfs?.oid ?? entry.oid;
      const bytes = entry.lfs?.size ?? entry.size;
      if (typeof entry.path !== "string" || !isSafePath(entry.path)) {
        const file = quote(entry.path);
        refuse(`lists a file named ${file}, which could lead out of its folder`, { file });
      }
      if (typeof hash !== "string" || !HASH.test(hash) || !Number.isSafeInteger(bytes) || bytes < 0) {
        refuse(`gives no size or no hash for ${entry.path}`, { file: entry.path, missing: "size or hash" });
      }
      files.set(entry.path, { path: entry.path, bytes, hash: hash as string });
    }
    return { commit, files };
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof TypeError) return refuse("answers in an unknown form");
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
    if (!(await exists(blobOf(file)))) needed += Math.max(0, file.bytes - (await partialBytes(blobOf(file))));
  }
  const { bavail, bsize } = await statfs(storage);
  const available = bavail * bsize;
  if (needed <= available) return;
  throw new InputError(
    "output-unwritable",
    `model ${showId(id)}: takes ${showBytes(needed)}, but the disk of ${storage} has ${showBytes(available)} left. ` +
      "Set HF_HOME to a folder on a disk with more space.",
    { model: showId(id), path: storage, needed, available },
  );
}

/** Makes a relative link, so that the cache can be moved, or a copy if the system does not support links. */
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
