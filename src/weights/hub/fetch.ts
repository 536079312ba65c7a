/** Requests to the hub. Its refusals become errors that say what to do. */
import { type ErrorCode, type ErrorFacts, InputError } from "../../errors/index.js";
import { type Hub, type HubId, showId } from "./id.js";

export type HubFetch = (url: string | URL | Request, init?: RequestInit) => Promise<Response>;

/** The network or the hub is down. It is not an InputError, because a cached copy may be used instead. */
export class HubUnreachable extends Error {
  override readonly name = "HubUnreachable";
  constructor(url: string, cause: unknown) {
    super(`${url}: cannot be reached (${reasonOf(cause)})`, { cause });
  }
}

function reasonOf(error: unknown): string {
  // The message of fetch is only "fetch failed"; the reason is in its cause.
  const { cause, message } = error as Error;
  const inner = cause as (NodeJS.ErrnoException & { errors?: Error[] }) | undefined;
  return inner?.message || inner?.errors?.[0]?.message || inner?.code || message || String(error);
}

/**
 * A `fetch` that sends the user's token to this hub only.
 *
 * @throws InputError when the hub refuses, HubUnreachable when it cannot be reached or answers 429 or 5xx
 */
export function hubFetch({ endpoint, token }: Hub, id: HubId): HubFetch {
  return async (url, init = {}) => {
    const whole = url instanceof Request ? url.url : String(url);
    // What is asked of the hub's API is of no use in a message, and may be longer than the rest.
    const address = whole.replace(/[?#].*$/s, "");
    const headers = new Headers(init.headers);
    // fetch drops this header when it follows a redirect to another host.
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
  const reason = headers.get("X-Error-Code");
  const { origin } = new URL(address);
  const model = showId(id);
  const refused = (code: ErrorCode, message: string, facts: ErrorFacts = {}) =>
    new InputError(code, `model ${model}: ${message}`, { model, endpoint: origin, status, ...facts });

  if (reason === "GatedRepo" || (status === 403 && reason === null)) {
    const page = `${origin}/${id.repo}`;
    const remedy = hasToken
      ? "with the account that HF_TOKEN belongs to"
      : "then set HF_TOKEN to an access token of your account";
    return refused("hub-denied", `is gated. Accept its license on ${page}, ${remedy}.`, { url: page, hasToken });
  }
  if (reason === "RevisionNotFound") {
    return refused("hub-not-found", `${origin} has this model, but no revision ${id.revision}.`, {
      revision: id.revision,
    });
  }
  if (reason === "EntryNotFound") {
    return refused("hub-not-found", `${origin} has no such file: ${address}`, { url: address });
  }
  if (status === 404 || status === 401 || reason === "RepoNotFound") {
    const remedy = hasToken ? "HF_TOKEN does not give access to it" : "set HF_TOKEN to an access token of your account";
    // The hub gives the same answer for a model that does not exist and for one that the user may not see.
    return refused(
      "hub-not-found",
      `is not a local folder, and ${origin} shows no such model. Check the spelling. If it is private or gated: ${remedy}.`,
      { hasToken },
    );
  }
  if (status === 429 || status >= 500) return new HubUnreachable(address, new Error(`it answered ${status}`));
  return refused("server-failed", `${address} answered ${status}.`, { url: address });
}
