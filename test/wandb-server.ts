/**
 * A small Weights & Biases service: the parts of GraphQL, `file_stream` and uploads that a run needs. W&B's own client
 * can use it too (parity/trackers.ts).
 */
import { type SmallAnswer, type SmallRequest, type SmallServer, startServer } from "./small-server.js";

export interface WandbServerRun {
  readonly entity: string;
  readonly project: string;
  displayName: string | null;
  config: Record<string, { value: unknown }>;
  /** Rows by line number. */
  readonly history: Map<number, Record<string, unknown>>;
  summary: Record<string, unknown>;
  readonly files: Map<string, Buffer>;
  readonly uploaded: string[];
  exitcode: number | undefined;
}

export interface WandbServer extends SmallServer {
  /** Runs by id. */
  readonly runs: Map<string, WandbServerRun>;
  /** Number of history lines that were sent again. */
  rewritten: number;
  /** The requests in order, by route. */
  readonly requests: string[];
}

/** Has one account, `someone`, with the API key `key`. */
export async function startWandb(key: string): Promise<WandbServer> {
  const runs = new Map<string, WandbServerRun>();
  const requests: string[] = [];
  const expected = `Basic ${Buffer.from(`api:${key}`).toString("base64")}`;

  const answer = (request: SmallRequest): SmallAnswer => {
    const { url, headers, body } = request;
    const [, route, ...rest] = url.pathname.split("/").map(decodeURIComponent);
    // Like a store with signed links, this route does not check the key.
    if (route === "upload") {
      const [id, ...path] = rest;
      requests.push(`upload ${path.join("/")}`);
      runs.get(id as string)?.files.set(path.join("/"), body);
      return {};
    }
    if (headers.authorization !== expected) return { status: 401, json: { error: "user is not logged in" } };
    if (route === "graphql") return { json: { data: graphql(JSON.parse(body.toString())) } };
    if (route === "files" && rest[3] === "file_stream") {
      requests.push("file_stream");
      const run = runs.get(rest[2] as string);
      if (run === undefined) return { status: 404, json: { error: "run not found" } };
      stream(run, JSON.parse(body.toString()) as StreamBody);
      return { json: { exitcode: null, limits: {} } };
    }
    return {};
  };

  const graphql = ({ query, variables }: { query: string; variables: Record<string, unknown> }): object => {
    if (query.includes("upsertBucket")) {
      requests.push("upsertBucket");
      const { project, entity, displayName, config } = variables;
      const name = variables.name as string;
      const found = runs.get(name);
      const run = found ?? newRun(String(entity || "someone"), String(project));
      runs.set(name, run);
      if (typeof displayName === "string") run.displayName = displayName;
      if (typeof config === "string") run.config = JSON.parse(config);
      const bucket = { id: `id-of-${name}`, name, displayName: run.displayName, sweepName: null, description: null };
      const place = { id: "project", name: run.project, entity: { id: "entity", name: run.entity } };
      const state = { config: JSON.stringify(run.config), historyLineCount: run.history.size, project: place };
      return { upsertBucket: { bucket: { ...bucket, ...state }, inserted: found === undefined } };
    }
    if (query.includes("createRunFiles")) {
      requests.push("createRunFiles");
      const { run, files } = variables as { run: string; files: string[] };
      const uploads = files.map((name) => ({ name, uploadUrl: `${server.address}/upload/${run}/${encodeURI(name)}` }));
      return { createRunFiles: { runID: `id-of-${run}`, uploadHeaders: [], files: uploads } };
    }
    requests.push("viewer");
    const viewer = {
      id: "viewer",
      entity: "someone",
      username: "someone",
      email: null,
      flags: "{}",
      teams: { edges: [] },
    };
    return { viewer, model: null, serverInfo: { features: [], cliVersionInfo: {}, latestLocalVersionInfo: null } };
  };

  const stream = (run: WandbServerRun, { files = {}, uploaded = [], exitcode }: StreamBody) => {
    const history = files["wandb-history.jsonl"];
    for (const [i, line] of (history?.content ?? []).entries()) {
      const at = (history?.offset ?? 0) + i;
      if (run.history.has(at)) server.rewritten++;
      run.history.set(at, JSON.parse(line));
    }
    const summary = files["wandb-summary.json"]?.content.at(-1);
    if (summary !== undefined) run.summary = JSON.parse(summary);
    run.uploaded.push(...uploaded);
    if (exitcode !== undefined) run.exitcode = exitcode;
  };

  const server: WandbServer = Object.assign(await startServer(answer), { runs, requests, rewritten: 0 });
  return server;
}

interface StreamBody {
  files?: Record<string, { offset: number; content: string[] }>;
  uploaded?: string[];
  exitcode?: number;
}

function newRun(entity: string, project: string): WandbServerRun {
  const empty = { history: new Map(), files: new Map(), uploaded: [], summary: {}, config: {} };
  return { entity, project, displayName: null, exitcode: undefined, ...empty };
}
