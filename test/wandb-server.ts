/**
 * A small Weights & Biases service on this machine: what a run needs of its GraphQL, `file_stream` and uploads. W&B's own
 * client takes it for one (parity/trackers.ts).
 */
import { type SmallAnswer, type SmallRequest, type SmallServer, startServer } from "./small-server.js";

export interface WandbServerRun {
  readonly entity: string;
  readonly project: string;
  displayName: string | null;
  config: Record<string, { value: unknown }>;
  /** By line. */
  readonly history: Map<number, Record<string, unknown>>;
  summary: Record<string, unknown>;
  readonly files: Map<string, Buffer>;
  readonly uploaded: string[];
  exitcode: number | undefined;
}

export interface WandbServer extends SmallServer {
  /** By their ids. */
  readonly runs: Map<string, WandbServerRun>;
  /** How often a line of a history came that was there. */
  rewritten: number;
  /** What was asked of which route, in order. */
  readonly asked: string[];
}

/** Its one account is `someone`, with the API key `key`. */
export async function startWandb(key: string): Promise<WandbServer> {
  const runs = new Map<string, WandbServerRun>();
  const asked: string[] = [];
  const known = `Basic ${Buffer.from(`api:${key}`).toString("base64")}`;

  const answer = (request: SmallRequest): SmallAnswer => {
    const { url, headers, body } = request;
    const [, route, ...rest] = url.pathname.split("/").map(decodeURIComponent);
    // As stores with signed addresses: no key is wanted here, but nor may one come that is wrong.
    if (route === "upload") {
      const [id, ...path] = rest;
      asked.push(`upload ${path.join("/")}`);
      runs.get(id as string)?.files.set(path.join("/"), body);
      return {};
    }
    if (headers.authorization !== known) return { status: 401, json: { error: "user is not logged in" } };
    if (route === "graphql") return { json: { data: graphql(JSON.parse(body.toString())) } };
    if (route === "files" && rest[3] === "file_stream") {
      asked.push("file_stream");
      const run = runs.get(rest[2] as string);
      if (run === undefined) return { status: 404, json: { error: "run not found" } };
      stream(run, JSON.parse(body.toString()) as StreamBody);
      return { json: { exitcode: null, limits: {} } };
    }
    return {};
  };

  const graphql = ({ query, variables }: { query: string; variables: Record<string, unknown> }): object => {
    if (query.includes("upsertBucket")) {
      asked.push("upsertBucket");
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
      asked.push("createRunFiles");
      const { run, files } = variables as { run: string; files: string[] };
      const uploads = files.map((name) => ({ name, uploadUrl: `${server.address}/upload/${run}/${encodeURI(name)}` }));
      return { createRunFiles: { runID: `id-of-${run}`, uploadHeaders: [], files: uploads } };
    }
    asked.push("viewer");
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

  const server: WandbServer = Object.assign(await startServer(answer), { runs, asked, rewritten: 0 });
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
