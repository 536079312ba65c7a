/** Pushes an adapter to a repository on the Hugging Face hub. */
import { openAsBlob } from "node:fs";
import { InputError } from "../../errors/index.js";
import type { Hub } from "../../weights/hub/id.js";
import type { PushedFile } from "./adapter-files.js";

export interface PushTarget {
  /** `owner/name`. */
  readonly repo: string;
  /** Branch, which is created if it does not exist. */
  readonly revision: string;
  /** Visibility of a repository that is created; an existing one stays as it is. */
  readonly private: boolean;
  /** Address of the hub, such as https://huggingface.co. */
  readonly hubUrl: string;
  readonly token: string;
  readonly signal?: AbortSignal;
}

/** @throws InputError `hub-denied` if HF_TOKEN is not set */
export function requireToken({ token }: Hub): string {
  if (token !== undefined) return token;
  throw new InputError(
    "hub-denied",
    "HF_TOKEN: is not set, but a push needs an access token. Create one with write access at " +
      "https://huggingface.co/settings/tokens, and set HF_TOKEN to it.",
    { variable: "HF_TOKEN" },
  );
}

/**
 * Checks an id `owner/name` by the rules of the hub.
 *
 * @throws InputError `hub-id-invalid`
 */
export function requireRepoId(repo: string): void {
  const name = /^[A-Za-z0-9](?:[\w.-]*\w)?$/;
  const parts = repo.split("/");
  if (parts.length === 2 && parts.every((part) => part.length <= 96 && name.test(part) && !/--|\.\./.test(part)))
    return;
  throw new InputError(
    "hub-id-invalid",
    `${repo}: is not the id of a repository on the hub; expected OWNER/NAME, such as me/vivid-animals, of letters, digits, ` +
      "dots, dashes and underscores.",
    { repo, expected: "OWNER/NAME" },
  );
}

/**
 * Commits the files, after it has created the repository and the branch if they do not exist. Returns their web address
 * and the id of the commit.
 *
 * @throws InputError `hub-denied` or `hub-not-found`
 */
export async function push(files: readonly PushedFile[], target: PushTarget): Promise<{ url: string; commit: string }> {
  const { repo: name, revision, hubUrl, token: accessToken, signal } = target;
  const repo = { type: "model", name } as const;
  const request: typeof fetch = (input, init) =>
    fetch(input, { ...init, signal: AbortSignal.any([signal, init?.signal].filter((one) => one != null)) });
  const hub = { repo, hubUrl, accessToken, fetch: request };
  // Loaded only to push, because it takes long to load.
  const { createBranch, createRepo, repoExists, uploadFiles } = await import("@huggingface/hub");
  try {
    if (!(await repoExists(hub))) {
      await unlessExists(createRepo({ ...hub, visibility: target.private ? "private" : "public" }));
    }
    if (revision !== "main") await unlessExists(createBranch({ ...hub, branch: revision }));
    const uploads = await Promise.all(files.map(async ({ path, file }) => ({ path, content: await openAsBlob(file) })));
    const pushed = await uploadFiles({
      ...hub,
      files: uploads,
      branch: revision,
      commitTitle: "Upload an AlignProp adapter",
    });
    const branch = revision === "main" ? "" : `/tree/${encodeURIComponent(revision)}`;
    return { url: `${hubUrl}/${name}${branch}`, commit: pushed?.commit.oid ?? "" };
  } catch (error) {
    throw explained(error, target);
  }
}

/** The hub answers 409 if the repository or branch already exists. */
async function unlessExists(creation: Promise<unknown>): Promise<void> {
  try {
    await creation;
  } catch (error) {
    if (!(isHubError(error) && error.statusCode === 409)) throw error;
  }
}

/** An answer of the hub with a status of failure (`HubApiError`). */
function isHubError(error: unknown): error is Error & { readonly statusCode: number } {
  return error instanceof Error && "statusCode" in error && typeof error.statusCode === "number";
}

/** Turns errors of the hub into messages with a remedy. Returns other errors unchanged. */
function explained(error: unknown, { repo, hubUrl }: PushTarget): unknown {
  if (isHubError(error)) {
    const { statusCode: status } = error;
    const answer = `${hubUrl} answered ${status}`;
    const facts = { repo, server: hubUrl, status };
    switch (status) {
      case 401:
        return new InputError(
          "hub-denied",
          `HF_TOKEN: the hub does not know this token (${answer}). Check that it is complete and still valid.`,
          { variable: "HF_TOKEN", ...facts },
        );
      case 403:
        return new InputError(
          "hub-denied",
          `${repo}: this token may not write there (${answer}). Use a token with write access, or a repository of your own.`,
          facts,
        );
      case 404:
        return new InputError(
          "hub-not-found",
          `${repo}: does not exist, or this token may not see it (${answer}). Check the name and the token.`,
          facts,
        );
      default:
        return new Error(`${repo}: the push failed: ${answer}: ${error.message}`, { cause: error });
    }
  }
  // `fetch` reports an unreachable host as "fetch failed". The reason is in the cause.
  if (error instanceof TypeError && error.message === "fetch failed") {
    const { code, message } = (error.cause ?? {}) as { code?: string; message?: string };
    return new Error(`${hubUrl} cannot be reached (${code ?? message ?? "no reason given"}); the push is not done`, {
      cause: error,
    });
  }
  return error;
}
