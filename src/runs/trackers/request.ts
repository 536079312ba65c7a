/** HTTP requests to a tracking service, and the two kinds of errors that they end with. */

/** The service cannot be reached, is overloaded or has an internal error. The same request may succeed later. */
export class Unreachable extends Error {
  override readonly name = "Unreachable";
  constructor(
    message: string,
    /** Address without secrets. */
    readonly address: string,
    /** HTTP status; undefined if there was no answer. */
    readonly status?: number,
  ) {
    super(message);
  }
}

/** The service refuses the request or gives an unexpected answer. The same request would fail again. */
export class Refused extends Error {
  override readonly name = "Refused";
  constructor(
    message: string,
    /** Address without secrets. */
    readonly address: string,
    readonly status: number,
    /** Text of the answer. */
    readonly body = "",
  ) {
    super(message);
  }

  /** A successful answer without the expected content. `name` is the service's. */
  static unexpected(name: string, url: URL, found = "in an unexpected format", body = ""): Refused {
    const address = shownAddress(url);
    return new Refused(`${name}: ${address} gave an answer ${found}`, address, 200, body);
  }
}

const TIMEOUT_MS = 30_000;
/** Bytes per millisecond: 100 kB per second. */
const MIN_UPLOAD_RATE = 100;
const MAX_ANSWER_BYTES = 1 << 24;

export interface Request {
  readonly method?: string;
  readonly headers?: Record<string, string> | undefined;
  readonly body?: string | Blob;
}

/**
 * Sends a request and returns the text of a successful answer. Messages name the service by `name` and by its address
 * without the user and the query, because the query of an upload link contains a signature.
 *
 * @throws Unreachable or Refused
 */
export async function send(name: string, url: URL, { headers = {}, ...init }: Request): Promise<string> {
  const timeout = TIMEOUT_MS + Math.ceil((init.body instanceof Blob ? init.body.size : 0) / MIN_UPLOAD_RATE);
  const signal = AbortSignal.timeout(timeout);
  const address = shownAddress(url);
  let response: Response;
  let text: string;
  try {
    response = await fetch(url, { ...init, headers, signal });
    text = await readAnswer(response);
  } catch (error) {
    throw new Unreachable(`${name}: ${address} cannot be reached (${reasonOf(error, timeout)})`, address);
  }
  if (response.ok) return text;
  const { status } = response;
  const message = `${name}: ${address} answered ${status}${reasonIn(text)}`;
  if (status === 408 || status === 429 || status >= 500) throw new Unreachable(message, address, status);
  throw new Refused(message, address, status, text);
}

/** Sends JSON, or a GET request without it, and parses the answer as JSON. */
export async function sendJson(
  name: string,
  url: URL,
  { headers, json }: { headers?: Record<string, string>; json?: unknown },
): Promise<unknown> {
  const text = await send(name, url, json === undefined ? { headers } : jsonRequest(json, headers));
  try {
    return JSON.parse(text);
  } catch {
    throw Refused.unexpected(name, url, "that is not JSON", text);
  }
}

/** A POST request. */
export function jsonRequest(json: unknown, headers: Record<string, string> = {}): Request {
  return { method: "POST", body: JSON.stringify(json), headers: { ...headers, "Content-Type": "application/json" } };
}

/** The address without user, query and fragment. */
export function shownAddress(url: URL): string {
  return `${url.origin}${url.pathname}`.replace(/\/$/, "");
}

/** `base` with escaped parts appended to its path. */
export function atPath(base: URL, ...parts: readonly string[]): URL {
  const url = new URL(base);
  url.pathname = [url.pathname.replace(/\/+$/, ""), ...parts.map(encodeURIComponent)].join("/");
  return url;
}

async function readAnswer(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of response.body ?? []) {
    length += chunk.length;
    if (length > MAX_ANSWER_BYTES) throw new Error(`its answer has more than ${MAX_ANSWER_BYTES} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** The message of `fetch` is only "fetch failed"; the reason is in the cause. */
function reasonOf(error: unknown, timeout: number): string {
  const { name, cause, message } = error as Error;
  if (name === "TimeoutError") return `no answer in ${Math.round(timeout / 1000)} s`;
  const inner = cause as (NodeJS.ErrnoException & { errors?: Error[] }) | undefined;
  return inner?.message || inner?.errors?.[0]?.message || inner?.code || message;
}

/** The error message in a JSON answer, on one line of at most 200 characters, after a colon; empty if there is none. */
function reasonIn(text: string): string {
  let reason: unknown;
  try {
    const { message, error, errors } = JSON.parse(text) as Record<string, unknown>;
    reason = message ?? error ?? (Array.isArray(errors) ? (errors[0] as { message?: unknown })?.message : undefined);
  } catch {
    reason = undefined;
  }
  if (typeof reason !== "string" || reason.trim() === "") return "";
  const line = reason.replace(/\s+/g, " ").trim().replace(/\.$/, "");
  return `: ${line.length > 200 ? `${line.slice(0, 197)}…` : line}`;
}
