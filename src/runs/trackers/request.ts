/** Requests to a tracking service, and what its failures mean. */

/** The service is away, overloaded or broken: later it may do. */
export class Unreachable extends Error {
  override readonly name = "Unreachable";
}

/** The service says no, and would again. */
export class Refused extends Error {
  override readonly name = "Refused";
  constructor(
    message: string,
    readonly status: number,
    /** The answer, as far as it is worth reading. */
    readonly body = "",
  ) {
    super(message);
  }
}

const TIMEOUT_MS = 30_000;
/** Bytes in a millisecond, of files: 100 kB in a second. */
const SLOWEST_UPLOAD = 100;
/** Of an answer; a service that sends more is not the one that was meant. */
const MOST_ANSWER = 1 << 24;

export interface Request {
  readonly method?: string;
  readonly headers?: Record<string, string> | undefined;
  readonly body?: string | Blob;
}

/**
 * The text of a good answer. Messages name the service by `name` and an address without what may be secret in it: a user, or
 * the query, where upload links carry their signature.
 */
export async function send(name: string, url: URL, { headers = {}, ...init }: Request): Promise<string> {
  const patience = TIMEOUT_MS + Math.ceil((init.body instanceof Blob ? init.body.size : 0) / SLOWEST_UPLOAD);
  const signal = AbortSignal.timeout(patience);
  const shown = shownAddress(url);
  let response: Response;
  let text: string;
  try {
    response = await fetch(url, { ...init, headers, signal });
    text = await readAnswer(response);
  } catch (error) {
    throw new Unreachable(`${name}: ${shown} cannot be reached (${reasonOf(error, patience)})`);
  }
  if (response.ok) return text;
  const said = `${name}: ${shown} answered ${response.status}${briefly(text)}`;
  if (response.status === 408 || response.status === 429 || response.status >= 500) throw new Unreachable(said);
  throw new Refused(said, response.status, text);
}

/** `send` of JSON, for JSON. */
export async function sendJson(
  name: string,
  url: URL,
  { headers, json }: { headers?: Record<string, string>; json?: unknown },
): Promise<unknown> {
  const text = await send(name, url, json === undefined ? { headers } : posted(json, headers));
  try {
    return JSON.parse(text);
  } catch {
    throw new Refused(`${name}: ${shownAddress(url)} gave an answer that is no JSON`, 200, text);
  }
}

export function posted(json: unknown, headers: Record<string, string> = {}): Request {
  return { method: "POST", body: JSON.stringify(json), headers: { ...headers, "Content-Type": "application/json" } };
}

export function shownAddress(url: URL): string {
  return `${url.origin}${url.pathname}`.replace(/\/$/, "");
}

/** `base` and a path below it, each part of which is escaped. */
export function below(base: URL, ...parts: readonly string[]): URL {
  const url = new URL(base);
  url.pathname = [url.pathname.replace(/\/+$/, ""), ...parts.map(encodeURIComponent)].join("/");
  return url;
}

async function readAnswer(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of response.body ?? []) {
    length += chunk.length;
    if (length > MOST_ANSWER) throw new Error("its answer does not end");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** fetch says "fetch failed"; what failed is its cause. */
function reasonOf(error: unknown, patience: number): string {
  const { name, cause, message } = error as Error;
  if (name === "TimeoutError") return `no answer in ${Math.round(patience / 1000)} s`;
  const inner = cause as (NodeJS.ErrnoException & { errors?: Error[] }) | undefined;
  return inner?.message || inner?.errors?.[0]?.message || inner?.code || message;
}

/** What the service gave as its reason, where that is a line or two. */
function briefly(text: string): string {
  let said: unknown;
  try {
    const { message, error, errors } = JSON.parse(text) as Record<string, unknown>;
    said = message ?? error ?? (Array.isArray(errors) ? (errors[0] as { message?: unknown })?.message : undefined);
  } catch {
    said = undefined;
  }
  if (typeof said !== "string" || said.trim() === "") return "";
  const line = said.replace(/\s+/g, " ").trim();
  return `: ${line.length > 200 ? `${line.slice(0, 197)}…` : line}`;
}
