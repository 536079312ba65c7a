/** An adapter to a repository on the Hugging Face hub: the weights in both formats, the model card and its pictures. */
import { existsSync, openAsBlob } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { createBranch, createRepo, HubApiError, repoExists, uploadFiles } from "@huggingface/hub";
import { InputError } from "../../errors/index.js";
import { UNET_FILES } from "../../pipeline/index.js";
import type { Hub } from "../../weights/hub/id.js";
import { PEFT_FILE } from "../../weights/lora-files.js";
import { adapterPath, cardFiles, isRun, runFiles } from "../record/index.js";
import { writeModelCard } from "./model-card.js";

export interface PushedFile {
  /** In the repository, with slashes. */
  readonly path: string;
  readonly file: string;
  readonly bytes: number;
}

export interface PushTarget {
  /** `owner/name`. */
  readonly repo: string;
  /** The branch, which is made where it is not there. */
  readonly revision: string;
  /** For a repository that has to be made first. */
  readonly private: boolean;
  /** Such as https://huggingface.co. */
  readonly hubUrl: string;
  readonly token: string;
  readonly signal?: AbortSignal;
}

/** Where there is none, the hub would not know who is pushing. */
export function requireToken({ token }: Hub): string {
  if (token !== undefined) return token;
  throw new InputError(
    "hub-denied",
    "HF_TOKEN: is not set; to push, the hub must know who you are: make one that may write at https://huggingface.co/settings/tokens, and set HF_TOKEN to it",
  );
}

/** `owner/name` as the hub allows it. */
export function requireRepoId(repo: string): void {
  const name = /^[A-Za-z0-9](?:[\w.-]*\w)?$/;
  const parts = repo.split("/");
  if (parts.length === 2 && parts.every((part) => part.length <= 96 && name.test(part) && !/--|\.\./.test(part)))
    return;
  throw new InputError(
    "hub-denied",
    `${repo}: is no repository on the hub; expected OWNER/NAME of letters, digits, dots, dashes and underscores, such as me/vivid-animals`,
  );
}

/**
 * What would be sent of a run's folder, which stands for its best checkpoint as everywhere, or of a folder with an adapter. The training
 * state stays at home. A checkpoint in a run gets its model card where it has none yet.
 */
export async function filesToPush(path: string): Promise<PushedFile[]> {
  const folder = await adapterFolder(path);
  const names = await readdir(folder);
  const unet = Object.values(UNET_FILES).filter((inside) => existsSync(join(folder, inside)));
  if (!names.includes(PEFT_FILE) && unet.length === 0) {
    throw new InputError("hub-denied", `${path}: has no ${PEFT_FILE}; name a run's folder, or one of its checkpoints`);
  }
  const wanted = names.filter(
    (name) => [PEFT_FILE, cardFiles.card].includes(name) || name.endsWith(".kohya.safetensors"),
  );
  const pictures = names.includes(cardFiles.images) ? await readdir(join(folder, cardFiles.images)) : [];
  const paths = [
    ...wanted.sort(),
    ...unet,
    ...pictures
      .filter((name) => name.endsWith(".png"))
      .sort()
      .map((name) => `${cardFiles.images}/${name}`),
  ];
  return Promise.all(
    paths.map(async (inside) => {
      const file = join(folder, inside);
      return { path: inside, file, bytes: (await stat(file)).size };
    }),
  );
}

async function adapterFolder(path: string): Promise<string> {
  const info = await stat(path).catch(() => undefined);
  if (!info?.isDirectory()) {
    const found = info === undefined ? "there is no such folder" : "is not a folder";
    throw new InputError("hub-denied", `${path}: ${found}; name a run's folder, or one of its checkpoints`);
  }
  const folder = resolve(await adapterPath(path));
  const run = dirname(dirname(folder));
  const step = /^step-(\d{6,})$/.exec(basename(folder))?.[1];
  const belongs = basename(dirname(folder)) === runFiles.checkpoints && (await isRun(run));
  if (step !== undefined && belongs && !(await readdir(folder)).includes(cardFiles.card)) {
    await writeModelCard(run, Number(step));
  }
  return folder;
}

/** Makes the repository where there is none, and commits the files. Gives the commit's address. */
export async function push(files: readonly PushedFile[], target: PushTarget): Promise<{ url: string; commit: string }> {
  const { repo: name, revision, hubUrl, token: accessToken, signal } = target;
  const repo = { type: "model", name } as const;
  const request: typeof fetch = (input, init) =>
    fetch(input, { ...init, signal: AbortSignal.any([signal, init?.signal].filter((one) => one != null)) });
  const hub = { repo, hubUrl, accessToken, fetch: request };
  try {
    if (!(await repoExists(hub))) {
      await unlessThere(createRepo({ ...hub, visibility: target.private ? "private" : "public" }));
    }
    if (revision !== "main") await unlessThere(createBranch({ ...hub, branch: revision }));
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
    throw told(error, target);
  }
}

/** 409 is the hub's word for what exists already. */
async function unlessThere(made: Promise<unknown>): Promise<void> {
  try {
    await made;
  } catch (error) {
    if (!(error instanceof HubApiError && error.statusCode === 409)) throw error;
  }
}

/** The hub's refusals in words. What it is not to blame for stays what it is. */
function told(error: unknown, { repo, hubUrl }: PushTarget): unknown {
  if (error instanceof HubApiError) {
    const answer = `${hubUrl} answered ${error.statusCode}`;
    switch (error.statusCode) {
      case 401:
        return new InputError(
          "hub-denied",
          `HF_TOKEN: the hub does not know this token (${answer}); is it complete and still valid?`,
        );
      case 403:
        return new InputError(
          "hub-denied",
          `${repo}: this token may not write there (${answer}); use a token with write access, or a repository of your own`,
        );
      case 404:
        return new InputError("hub-denied", `${repo}: is not there, or this token may not see it (${answer})`);
      default:
        return new Error(`${repo}: the push failed: ${answer}: ${error.message}`, { cause: error });
    }
  }
  // What fetch says of a host that cannot be reached; its cause says why.
  if (error instanceof TypeError && error.message === "fetch failed") {
    const { code, message } = (error.cause ?? {}) as { code?: string; message?: string };
    return new Error(`${hubUrl} cannot be reached (${code ?? message ?? "no reason given"}); the push is not done`, {
      cause: error,
    });
  }
  return error;
}
