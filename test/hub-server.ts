/** A small Hugging Face hub on this machine, with the endpoints that a download needs, and faults to inject. */
import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join, relative } from "node:path";

export const COMMIT = "0123456789abcdef0123456789abcdef01234567";

export interface HubServer {
  readonly endpoint: string;
  /** Files of one repository, by path. */
  readonly files: Map<string, Buffer>;
  /** The requests so far: `GET /path`, the token and the range. */
  readonly requests: {
    readonly line: string;
    readonly token: string | undefined;
    readonly range: string | undefined;
  }[];
  /** Injected faults. Reset them after use. */
  faults: {
    /** Answers every request with this status, and with this X-Error-Code. */
    status?: number;
    code?: string;
    /** Ends the connection after `cutAfter` bytes of a file, `cuts` times. */
    cutAfter?: number;
    cuts?: number;
    /** Changes the content of a file that is sent, but not its listed hash and size. */
    send?: (path: string, content: Buffer) => Buffer;
    /** Changes the listing of files. */
    list?: (entries: Record<string, unknown>[]) => unknown;
    /** Answers a range request with the whole file. */
    noRanges?: boolean;
    commit?: string;
  };
  close(): Promise<void>;
}

/** Files that a repository stores in Git LFS; here, weights. */
const isLarge = (path: string) => /\.(safetensors|bin|ckpt)$/.test(path);

export async function startHub(repo: string): Promise<HubServer> {
  const files = new Map<string, Buffer>();
  const requests: HubServer["requests"] = [];
  const hub = { files, requests, faults: {} as HubServer["faults"] };
  const answer = (request: IncomingMessage, response: ServerResponse, cdn: string) => {
    const url = new URL(request.url ?? "/", "http://hub");
    const { authorization, range } = request.headers;
    requests.push({ line: `${request.method} ${url.pathname}`, token: authorization, range });
    const { faults } = hub;
    if (faults.status !== undefined) {
      response.writeHead(faults.status, faults.code === undefined ? {} : { "X-Error-Code": faults.code }).end("{}");
      return;
    }
    const json = (value: unknown, headers = {}) =>
      response.writeHead(200, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(value));
    const path = decodeURIComponent(url.pathname);
    const commit = faults.commit ?? COMMIT;
    const [api, resolve] = [`/api/models/${repo}`, `/${repo}/resolve/${COMMIT}/`];
    if (path === `${api}/revision/main` || path === `${api}/revision/v1/beta` || path === `${api}/revision/${COMMIT}`) {
      json({ id: repo, sha: commit, lastModified: "2024-01-01T00:00:00Z" });
    } else if (path.startsWith(`${api}/revision/`)) {
      response.writeHead(404, { "X-Error-Code": "RevisionNotFound" }).end("{}");
    } else if (path === `${api}/tree/${COMMIT}`) {
      const all = [...files].map(([name, content]) => entryOf(name, content));
      const listed = faults.list ? faults.list(all) : all;
      if (!Array.isArray(listed)) json(listed);
      else if (url.searchParams.has("cursor")) json(listed.slice(2));
      else {
        const next = `<${hubUrl()}${url.pathname}?recursive=true&cursor=2>; rel="next"`;
        json(listed.slice(0, 2), { Link: next });
      }
    } else if (path.startsWith(resolve) && files.has(path.slice(resolve.length))) {
      // As on the hub, large files are on another host.
      const name = path.slice(resolve.length);
      if (isLarge(name)) response.writeHead(302, { Location: `${cdn}/${encodeURIComponent(name)}` }).end();
      else send(name, range, response);
    } else if (files.has(path.slice(1))) {
      send(path.slice(1), range, response);
    } else {
      response.writeHead(404, { "X-Error-Code": path.startsWith(api) ? "EntryNotFound" : "RepoNotFound" }).end("{}");
    }
  };
  const send = (name: string, range: string | undefined, response: ServerResponse) => {
    const { faults } = hub;
    const stored = files.get(name) as Buffer;
    const whole = faults.send ? faults.send(name, stored) : stored;
    const begin = faults.noRanges ? 0 : Number(/^bytes=(\d+)-/.exec(range ?? "")?.[1] ?? 0);
    const content = whole.subarray(begin);
    const part = begin > 0 ? { "Content-Range": `bytes ${begin}-${whole.length - 1}/${whole.length}` } : {};
    response.writeHead(begin > 0 ? 206 : 200, { "Content-Length": content.length, ...part });
    if (faults.cutAfter !== undefined && (faults.cuts ?? 0) > 0 && content.length > faults.cutAfter) {
      faults.cuts = (faults.cuts ?? 0) - 1;
      response.write(content.subarray(0, faults.cutAfter), () => setTimeout(() => response.destroy(), 20));
    } else response.end(content);
  };
  const cdn = await listen((request, response) => answer(request, response, ""));
  const main = await listen((request, response) => answer(request, response, addressOf(cdn)));
  const hubUrl = () => addressOf(main);
  return Object.assign(hub, {
    endpoint: hubUrl(),
    close: async () => {
      for (const server of [main, cdn]) {
        server.closeAllConnections();
        await new Promise((resolve) => server.close(resolve));
      }
    },
  });
}

function entryOf(path: string, content: Buffer): Record<string, unknown> {
  const blob = createHash("sha1").update(`blob ${content.length}\0`).update(content).digest("hex");
  const lfs = { oid: createHash("sha256").update(content).digest("hex"), size: content.length, pointerSize: 134 };
  return { type: "file", path, size: content.length, oid: blob, ...(isLarge(path) && { lfs }) };
}

function listen(handler: (request: IncomingMessage, response: ServerResponse) => void): Promise<Server> {
  const server = createServer(handler);
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

function addressOf(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** Reads all files of `folder`, as the files of a repository. */
export async function filesOf(folder: string): Promise<[string, Buffer][]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const paths = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return Promise.all(
    paths.map(
      async (path): Promise<[string, Buffer]> => [relative(folder, path).replaceAll("\\", "/"), await readFile(path)],
    ),
  );
}
