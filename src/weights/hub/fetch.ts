/** Requests to the hub, and what its refusals mean for the person who asked. */
import { InputError } from "../../errors/index.js";
import { type Hub, type HubId, showId } from "./id.js";

export type HubFetch = (url: string | URL | Request, init?: RequestInit) => Promise<Response>;

/** The network or the hub is down: not the user's mistake, and a cached copy may do. */
export class HubUnreachable extends Error {
  override readonly name = "HubUnreachable";
  constructor(url: string, cause: unknown) {
    super(`${url}: cannot be reached (${reasonOf(cause)})`, { cause });
  }
}

function reasonOf(error: unknown): string {
  // fetch says "fetch failed"; what failed is its cause.
  const { cause, message } = error as Error;
  const inner = cause as (NodeJS.ErrnoException & { errors?: Error[] }) | undefined;
  return inner?.message || inner?.errors?.[0]?.message || inner?.code || message || String(error);
}

/** `fetch` with the user's token for this hub alone, whose refusals are told in words. */
export function hubFetch({ endpoint, token }: Hub, id: HubId): HubFetch {
  return async (url, init = {}) => {
    const address = url instanceof Request ? url.url : String(url);
    const headers = new Headers(init.headers);
    // A redirect to another host loses it again: fetch drops the header there.
    if (token !== undefined && new URL(address).origin === new URL(endpoint).origin) {
      headers.set("Authorization", `Bearer ${token}`);
    }
    let response: Response;
    try {
      response = await fetch(url, { ...init, headers });
    } catch (error) {
      if (init.signal?.aborted) throw error;
      throw new HubUnreachable(address, error);
    }
    if (response.ok) return response;
    await response.body?.cancel();
    throw refusal(response, address, id, token !== undefined);
  };
}

function refusal({ status, headers }: Response, address: string, id: HubId, hasToken: boolean): Error {
  const code = headers.get("X-Error-Code");
  const where = new URL(address).origin;
  const refused = (why: string) => new InputError("hub-not-found", `model ${showId(id)}: ${why}`);
  if (code === "GatedRepo" || (status === 403 && code === null)) {
    const remedy = hasToken
      ? "with the account that HF_TOKEN belongs to"
      : "then set HF_TOKEN to an access token of your account";
    return refused(`is gated: accept its licence on ${where}/${id.repo}, ${remedy}.`);
  }
  if (code === "RevisionNotFound") return refused(`${where} has this model, but no revision ${id.revision}.`);
  if (code === "EntryNotFound") return refused(`${where} has no such file: ${address}`);
  if (status === 404 || status === 401 || code === "RepoNotFound") {
    const remedy = hasToken ? "HF_TOKEN does not open it" : "set HF_TOKEN to an access token of your account";
    // The hub answers alike for what is not there and for what is not to be seen.
    return refused(
      `is no folder here, and ${where} shows no such model. Is the name misspelt? If it is private or gated: ${remedy}.`,
    );
  }
  if (status === 429 || status >= 500) return new HubUnreachable(address, new Error(`it answered ${status}`));
  return refused(`${address} answered ${status}.`);
}
