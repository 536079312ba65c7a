/** What a model on the Hugging Face hub is called, and where the cache that Python shares keeps it. */
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { InputError } from "../../errors/index.js";

export interface HubId {
  /** `organisation/name`. */
  readonly repo: string;
  /** A branch, a tag or a commit. */
  readonly revision: string;
  /** One file of the repository, where a single file is meant and not a whole model. */
  readonly file?: string;
}

export const DEFAULT_REVISION = "main";
export const COMMIT = /^[0-9a-f]{40}$/;

const PREFIX = "hf://";
const NAME = "[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?";
const ID = new RegExp(`^(${NAME}/${NAME})(?:@(refs/(?:pr|convert)/[\\w.-]+|[\\w.-]+))?(?:/(.+))?$`);

/**
 * `org/name`, `org/name@revision`, or either with `/path/of/a.file`; `hf://` before it says that no folder is meant.
 * Undefined where it is no such id.
 */
export function parseHubId(spec: string, revision?: string): HubId | undefined {
  const match = ID.exec(spec.startsWith(PREFIX) ? spec.slice(PREFIX.length) : spec);
  const [, repo, written, file] = match ?? [];
  // The cache joins organisation and name with two dashes.
  if (repo === undefined || /--|\.\./.test(repo)) return undefined;
  if (written !== undefined && revision !== undefined && written !== revision) {
    throw new InputError(
      "hub-not-found",
      `model ${spec}: names the revision ${written}, but loading.revision is ${revision}; keep one`,
    );
  }
  const chosen = written ?? revision ?? DEFAULT_REVISION;
  if (!isSafePath(chosen))
    throw new InputError("hub-not-found", `model ${spec}: ${JSON.stringify(chosen)} cannot be a revision`);
  if (file !== undefined && !isSafePath(file)) {
    throw new InputError("hub-not-found", `model ${spec}: ${JSON.stringify(file)} cannot be a file of a repository`);
  }
  return { repo, revision: chosen, ...(file !== undefined && { file }) };
}

export function saysHub(spec: string): boolean {
  return spec.startsWith(PREFIX);
}

export function showId({ repo, revision, file }: HubId): string {
  return `${repo}${revision === DEFAULT_REVISION ? "" : `@${revision}`}${file === undefined ? "" : `/${file}`}`;
}

/**
 * Whether a name from outside stays below the folder that it is joined to, on every platform: no `..`, no root, no drive,
 * nothing that a file system gives a meaning.
 */
export function isSafePath(path: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: those are what must not be there
  const segment = /^[^\\:*?"<>|\x00-\x1f]+$/;
  return (
    path.length <= 512 &&
    path.split("/").every((part) => segment.test(part) && !/^\.{1,2}$/.test(part) && part === part.trim())
  );
}

/** How the hub is reached. The variables are those of Python's huggingface_hub. */
export interface Hub {
  /** HF_ENDPOINT, without a slash at its end. */
  readonly endpoint: string;
  /** HF_TOKEN: for private and gated models. */
  readonly token: string | undefined;
  /** HF_HUB_CACHE, or hub/ in HF_HOME, which is huggingface/ in XDG_CACHE_HOME or ~/.cache. */
  readonly cache: string;
  /** HF_HUB_OFFLINE: only what the cache holds. */
  readonly offline: boolean;
}

export function hubOf(env: NodeJS.ProcessEnv, { offline = false }: { offline?: boolean } = {}): Hub {
  const set = (name: string) => env[name]?.trim() || undefined;
  const folder = (path: string) => resolve(path.replace(/^~(?=$|[/\\])/, homedir()));
  const home = set("HF_HOME") ?? join(set("XDG_CACHE_HOME") ?? join(homedir(), ".cache"), "huggingface");
  const endpoint = (set("HF_ENDPOINT") ?? "https://huggingface.co").replace(/\/+$/, "");
  if (!/^https?:\/\/[^/]/.test(endpoint) || !URL.canParse(endpoint)) {
    throw new InputError(
      "hub-not-found",
      `HF_ENDPOINT: ${JSON.stringify(endpoint)} is no address such as https://huggingface.co`,
    );
  }
  const token = set("HF_TOKEN");
  if (token !== undefined && !/^hf_[\x21-\x7e]+$/.test(token)) {
    throw new InputError("hub-not-found", "HF_TOKEN: is no access token of Hugging Face; those begin with hf_");
  }
  return {
    endpoint,
    token,
    cache: folder(set("HF_HUB_CACHE") ?? set("HUGGINGFACE_HUB_CACHE") ?? join(home, "hub")),
    offline: offline || /^(1|on|yes|true)$/i.test(set("HF_HUB_OFFLINE") ?? ""),
  };
}

/** `models--org--name/` with `refs/`, `snapshots/<commit>/` and `blobs/`, as every Hugging Face library lays it out. */
export function repoFolder({ cache }: Hub, { repo }: HubId): string {
  return join(cache, `models--${repo.replace("/", "--")}`);
}
