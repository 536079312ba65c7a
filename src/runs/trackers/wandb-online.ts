/**
 * Online tracking in W&B, over the HTTP API of its own clients: GraphQL for the run and the upload links, `file_stream`
 * for the lines of the history and the summary.
 */
import { basename } from "node:path";
import { z } from "zod";
import { InputError } from "../../errors/index.js";
import { Outbox, type OutboxOptions } from "./outbox.js";
import { atPath, jsonRequest, Refused, send, sendJson, shownAddress, Unreachable } from "./request.js";
import type { TrackedRow } from "./row.js";
import type { Outcome, TrackedRun, Tracker, TrackerOptions } from "./tracker.js";
import {
  configOf,
  EXIT_CODES,
  historyOf,
  type MediaFile,
  newRunId,
  type WandbState,
  type WandbTarget,
} from "./wandb-run.js";

export interface Account {
  readonly server: URL;
  /** Address of the web pages. */
  readonly app: string;
  readonly key: string;
}

const VIEWER = "query Viewer { viewer { entity username } }";

const UPSERT = `mutation UpsertBucket($name: String!, $project: String!, $entity: String!, $displayName: String, $config: JSONString) {
  upsertBucket(input: {name: $name, modelName: $project, entityName: $entity, displayName: $displayName, config: $config}) {
    bucket { id name project { name entity { name } } }
  }
}`;

const CREATE_FILES = `mutation CreateRunFiles($entity: String!, $project: String!, $run: String!, $files: [String!]!) {
  createRunFiles(input: {entityName: $entity, projectName: $project, runName: $run, files: $files}) {
    uploadHeaders
    files { name uploadUrl }
  }
}`;

const viewer = z.object({
  viewer: z.object({ entity: z.string().nullish(), username: z.string().nullish() }).nullable(),
});
const upserted = z.object({
  upsertBucket: z.object({
    bucket: z.object({ project: z.object({ name: z.string(), entity: z.object({ name: z.string() }) }) }),
  }),
});
const uploads = z.object({
  createRunFiles: z.object({
    uploadHeaders: z.array(z.string()).nullish(),
    files: z.array(z.object({ name: z.string(), uploadUrl: z.string() })),
  }),
});

/** The service marks a run as crashed after some minutes without a request. */
const HEARTBEAT_MS = 30_000;

interface OnlineOptions extends TrackerOptions {
  readonly timing: Partial<OutboxOptions>;
}

/** @throws InputError `server-failed` if the service cannot be reached or does not accept the key */
export async function openOnline(
  account: Account,
  target: WandbTarget,
  saved: WandbState | undefined,
  options: OnlineOptions,
): Promise<Tracker> {
  const defaultEntity = await requireAccount(account);
  const entity = target.entity || defaultEntity;
  const server = shownAddress(account.server);
  const state = saved?.server === server && saved.entity === entity ? saved : undefined;
  const fresh = {
    mode: "online",
    server,
    entity,
    project: target.project,
    id: newRunId(),
    began: Date.now(),
    step: -1,
  } as const;
  return new WandbOnline(account, state ?? fresh, options);
}

/** Checks before training that the service can be reached and accepts the key. Returns the account's default entity. */
async function requireAccount(account: Account): Promise<string> {
  try {
    const found = (await graphql(account, VIEWER, {}, viewer)).viewer;
    const entity = found?.entity || found?.username;
    if (entity) return entity;
  } catch (error) {
    if (!(error instanceof Refused || error instanceof Unreachable)) throw error;
    const { message, address, status } = error;
    const facts = { server: address, status };
    if (error instanceof Unreachable) {
      const remedy = "Try again later, or track with mode: offline (WANDB_MODE=offline) and upload later.";
      throw new InputError("server-failed", `${message}. ${remedy}`, { ...facts, suggestion: "WANDB_MODE=offline" });
    }
    if (![400, 401, 403].includes(error.status)) {
      const variable = "WANDB_BASE_URL";
      throw new InputError("server-failed", `${message}. Check ${variable}.`, { ...facts, variable });
    }
  }
  const server = shownAddress(account.server);
  const authorize = `${account.app}/authorize`;
  throw new InputError(
    "server-failed",
    `wandb: ${server} does not know the key in WANDB_API_KEY. Copy your key from ${authorize}.`,
    { server, variable: "WANDB_API_KEY", suggestion: authorize },
  );
}

async function graphql<S extends z.ZodType>(
  account: Account,
  query: string,
  variables: object,
  schema: S,
): Promise<z.output<S>> {
  const url = atPath(account.server, "graphql");
  const answer = await sendJson("wandb", url, { headers: authorization(account), json: { query, variables } });
  const { data, errors } = (answer ?? {}) as { data?: unknown; errors?: { message?: unknown }[] };
  const problem = errors?.[0]?.message;
  const address = shownAddress(url);
  if (typeof problem === "string")
    throw new Refused(`wandb: ${address}: ${problem.slice(0, 200).replace(/\.$/, "")}`, address, 200);
  const checked = schema.safeParse(data);
  if (!checked.success) throw Refused.unexpected("wandb", url);
  return checked.data;
}

function authorization({ key }: Account): Record<string, string> {
  return { Authorization: `Basic ${Buffer.from(`api:${key}`).toString("base64")}` };
}

class WandbOnline implements Tracker {
  readonly #outbox: Outbox;
  #state: WandbState;
  #heartbeat: NodeJS.Timeout | undefined;
  /** The run's entity and project, as the service spells them. */
  #target: WandbTarget;
  place: string | undefined;

  constructor(
    readonly account: Account,
    state: WandbState,
    readonly options: OnlineOptions,
  ) {
    this.#state = state;
    this.#target = { entity: state.entity, project: state.project };
    this.#outbox = new Outbox("wandb", { warn: options.warn, ...options.timing });
  }

  async start(run: TrackedRun): Promise<number> {
    const first = this.#state.step + 1;
    this.#outbox.post({ vital: true, send: () => this.#upsert(run) });
    this.#heartbeat = setInterval(() => {
      if (this.#outbox.idle) this.#outbox.post({ send: () => this.#stream({}) });
    }, HEARTBEAT_MS);
    this.#heartbeat.unref();
    // Repeated steps give the same numbers, so their lines in the history are not written again.
    return first;
  }

  async row(row: TrackedRow): Promise<void> {
    this.#outbox.post({
      send: async () => {
        const { values, media } = await historyOf(row, this.#state.began);
        if (media.length > 0) await this.#upload(media);
        const json = JSON.stringify(values);
        await this.#stream({
          files: {
            // One line per step, from the base model's on. If it is sent again, it replaces itself.
            "wandb-history.jsonl": { offset: row.step, content: [json] },
            "wandb-summary.json": { offset: 0, content: [json] },
          },
          ...(media.length > 0 && { uploaded: media.map(({ path }) => path) }),
        });
        await this.#save({ step: row.step });
      },
    });
  }

  async end(outcome: Outcome): Promise<void> {
    clearInterval(this.#heartbeat);
    this.#outbox.post({
      send: () => this.#stream({ complete: true, exitcode: EXIT_CODES[outcome] }),
    });
    await this.#outbox.close();
  }

  async #upsert({ path, settings }: TrackedRun): Promise<void> {
    const { entity, project, id } = this.#state;
    const config = Object.entries(configOf({ ...settings, out: path })).map(([key, value]) => [key, { value }]);
    const variables = {
      name: id,
      project,
      entity,
      displayName: basename(path),
      config: JSON.stringify(Object.fromEntries(config)),
    };
    const { bucket } = (await graphql(this.account, UPSERT, variables, upserted)).upsertBucket;
    this.#target = { entity: bucket.project.entity.name, project: bucket.project.name };
    await this.#save({});
    this.place = this.#page();
    this.options.tell(`wandb: ${this.place}`);
  }

  #page(): string {
    const { entity, project } = this.#target;
    return [this.account.app, ...[entity, project, "runs", this.#state.id].map(encodeURIComponent)].join("/");
  }

  async #upload(media: readonly MediaFile[]): Promise<void> {
    const variables = { ...this.#target, run: this.#state.id, files: media.map(({ path }) => path) };
    const { files, uploadHeaders } = (await graphql(this.account, CREATE_FILES, variables, uploads)).createRunFiles;
    const headers = Object.fromEntries((uploadHeaders ?? []).map((line) => line.split(/:\s*(.*)/s).slice(0, 2)));
    for (const { name, uploadUrl } of files) {
      const file = media.find(({ path }) => path === name);
      const url = URL.canParse(uploadUrl, this.account.server.href)
        ? new URL(uploadUrl, this.account.server)
        : undefined;
      if (file === undefined || !/^https?:$/.test(url?.protocol ?? "")) continue;
      // Upload links to other hosts contain a signature, and those hosts must not see the key.
      const auth = (url as URL).origin === this.account.server.origin ? authorization(this.account) : {};
      const body = new Blob([file.bytes], { type: "image/png" });
      await send("wandb", url as URL, { method: "PUT", body, headers: { ...auth, ...headers } });
    }
  }

  async #stream(json: object): Promise<void> {
    const { entity, project } = this.#target;
    const url = atPath(this.account.server, "files", entity, project, this.#state.id, "file_stream");
    await send("wandb", url, jsonRequest(json, authorization(this.account)));
  }

  async #save(change: Partial<WandbState>): Promise<void> {
    this.#state = { ...this.#state, ...change };
    await this.options.save(this.#state);
  }
}
