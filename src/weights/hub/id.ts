/** Ids of models on the Hugging Face hub, and their locations in the cache that is shared with Python's libraries. */
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { InputError } from "../../errors/index.js";

export interface HubId {
  /** `organization/name`. */
  readonly repo: string;
  /** A branch, a tag or a commit. */
  readonly revision: string;
  /** One file of the repository, for a single-file model. */
  readonly file?: string;
}

export const DEFAULT_REVISION = "main";
export const COMMIT = /^[0-9a-f]{40}$/;

const PREFIX = "hf://";
const NAME = "[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?";
const ID = new RegExp(`^(${NAME}/${NAME})(?:@(refs/(?:pr|convert)/[\\w.-]+|[\\w.-]+))?(?:/(.+))?$`);

/**
 * Parses `org/name` or `org/name@revision`. The path of a file in the repository (`/path/of/a.file`) may follow, and
 * `hf://` may come first, to say that a local folder is not meant. Undefined if `spec` is not an id.
 *
 * @param revision the setting `loading.revision`
 * @throws InputError when the id and the setting give different revisions, or a revision or file is not a safe path
 */
export function parseHubId(spec: string, revision?: string): HubId | undefined {
  const match = ID.exec(spec.startsWith(PREFIX) ? spec.slice(PREFIX.length) : spec);
  const [, repo, written, file] = match ?? [];
  // The cache joins organization and name with two dashes.
  if (repo === undefined || /--|\.\./.test(repo)) return undefined;
  if (written !== undefined && revision !== undefined && written !== revision) {
    throw new InputError(
      "settings-conflict",
      `model ${spec}: names the revision ${written}, but loading.revision is ${revision}. Remove one of them.`,
      { model: spec, setting: "loading.revision", found: [written, revision] },
    );
  }
  const chosen = written ?? revision ?? DEFAULT_REVISION;
  if (!isSafePath(chosen)) {
    const message = `model ${spec}: ${JSON.stringify(chosen)} cannot be a revision. Give a branch, a tag or a commit.`;
    throw new InputError("hub-id-invalid", message, { model: spec, revision: chosen });
  }
  if (file !== undefined && !isSafePath(file)) {
    const message = `model ${spec}: ${JSON.stringify(file)} cannot be a file of a repository. Give its path without "..".`;
    throw new InputError("hub-id-invalid", message, { model: spec, file });
  }
  return { repo, revision: chosen, ...(file !== undefined && { file }) };
}

/** Whether `spec` starts with `hf://`, so that it cannot mean a local folder. */
export function saysHub(spec: string): boolean {
  return spec.startsWith(PREFIX);
}

export function showId({ repo, revision, file }: HubId): string {
  return `${repo}${revision === DEFAULT_REVISION ? "" : `@${revision}`}${file === undefined ? "" : `/${file}`}`;
}

/**
 * Whether an untrusted path, joined to a folder, stays inside it on every platform: no `..`, no root, no drive, and no
 * characters with a special meaning.
 */
export function isSafePath(path: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these must be excluded
  const segment = /^[^\\:*?"<>|\x00-\x1f]+$/;
  return (
    path.length <= 512 &&
    path.split("/").every((part) => segment.test(part) && !/^\.{1,2}$/.test(part) && part === part.trim())
  );
}

/** How to reach the hub. The environment variables are those of Python's huggingface_hub. */
export interface Hub {
  /** HF_ENDPOINT, without a trailing slash. */
  readonly endpoint: string;
  /** HF_TOKEN, for private and gated models. */
  readonly token: string | undefined;
  /** HF_HUB_CACHE, or hub/ in HF_HOME, which defaults to huggingface/ in XDG_CACHE_HOME or ~/.cache. */
  readonly cache: string;
  /** HF_HUB_OFFLINE: use the cache alone. */
  readonly offline: boolean;
}

/** @throws InputError `setting-invalid` when HF_ENDPOINT or HF_TOKEN cannot be right */
export function hubOf(env: NodeJS.ProcessEnv, { offline = false }: { offline?: boolean } = {}): Hub {
  const set = (name: string) => env[name]?.trim() || undefined;
  const folder = (path: string) => resolve(path.replace(/^~(?=$|[/\\])/, homedir()));
  const home = set("HF_HOME") ?? join(set("XDG_CACHE_HOME") ?? join(homedir(), ".cache"), "huggingface");
  const endpoint = (set("HF_ENDPOINT") ?? "https://huggingface.co").replace(/\/+$/, "");
  if (!/^https?:\/\/[^/]/.test(endpoint) || !URL.canParse(endpoint)) {
    throw new InputError(
      "setting-invalid",
      `HF_ENDPOINT: ${JSON.stringify(endpoint)} is not an address such as https://huggingface.co`,
      { setting: "HF_ENDPOINT", found: endpoint },
    );
  }
  const token = set("HF_TOKEN");
  if (token !== undefined && !/^hf_[\x21-\x7e]+$/.test(token)) {
    const message = "HF_TOKEN: is not an access token of Hugging Face, which begins with hf_";
    throw new InputError("setting-invalid", message, { setting: "HF_TOKEN", expected: "hf_" });
  }
  return {
    endpoint,
    token,
    cache: folder(set("HF_HUB_CACHE") ?? set("HUGGINGFACE_HUB_CACHE") ?? join(home, "hub")),
    offline: offline || /^(1|on|yes|true)$/i.test(set("HF_HUB_OFFLINE") ?? ""),
  };
}

/**
 * The folder `models--org--name/`, with `refs/`, `snapshots/<commit>/` and `blobs/`, as in all Hugging Face libraries.
 */
export function repoFolder({ cache }: Hub, { repo }: HubId): string {
  return join(cache, `models--${repo.replace("/", "--")}`);
}
