/**
 * W&B's service over the HTTP API that its own clients speak: GraphQL for the run and for where files go, `file_stream` for the
 * history's lines and the summary.
 */
import { basename } from "node:path";
import { z } from "zod";
import { InputError } from "../../errors/index.js";
import { Outbox, type OutboxOptions } from "./outbox.js";
import { below, posted, Refused, send, sendJson, shownAddress, Unreachable } from "./request.js";
import type { TrackedRow } from "./row.js";
import type { Outcome, TrackedRun, Tracker, TrackerOptions } from "./tracker.js";
import {
  configOf,
  EXIT_CODES,
  historyOf,
  type MediaFile,
  newRunId,
  type SavedOutputs,
  type WandbTarget,
} from "./wandb-run.js";

export interface Account {
  readonly server: URL;
  /** The address of the pages that people look at. */
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

/** The service takes a run for dead that it has not heard of for some minutes. */
const HEARTBEAT_MS = 30_000;

export async function openOnline(
  account: Account,
  target: WandbTarget,
  kept: SavedOutputs | undefined,
  options: TrackerOptions,
  timing: Partial<OutboxOptions>,
): Promise<Tracker> {
  const own = await ownEntity(account);
  const entity = target.entity || own;
  const server = shownAddress(account.server);
  const same = kept?.server === server && kept.entity === entity ? kept : undefined;
  const fresh = {
    mode: "online",
    server,
    entity,
    project: target.project,
    id: newRunId(),
    began: Date.now(),
    step: -1,
  } as const;
  return new WandbOnline(account, same ?? fresh, options, timing);
}

/** Before training: that the service is there and knows the key. */
async function ownEntity(account: Account): Promise<string> {
  try {
    const found = (await graphql(account, VIEWER, {}, viewer)).viewer;
    const entity = found?.entity || found?.username;
    if (entity) return entity;
  } catch (error) {
    if (error instanceof Unreachable) {
      throw new InputError("server-failed", `${error.message}; for later, there is mode: offline (WANDB_MODE=offline)`);
    }
    if (!(error instanceof Refused)) throw error;
    if (![400, 401, 403].includes(error.status))
      throw new InputError("server-failed", `${error.message}; is WANDB_BASE_URL right?`);
  }
  throw new InputError(
    "server-failed",
    `wandb: ${shownAddress(account.server)} does not know the key in WANDB_API_KEY; ${account.app}/authorize shows yours`,
  );
}

async function graphql<S extends z.ZodType>(
  account: Account,
  query: string,
  variables: object,
  schema: S,
): Promise<z.output<S>> {
  const url = below(account.server, "graphql");
  const answer = await sendJson("wandb", url, { headers: authorization(account), json: { query, variables } });
  const { data, errors } = (answer ?? {}) as { data?: unknown; errors?: { message?: unknown }[] };
  const problem = errors?.[0]?.message;
  if (typeof problem === "string") throw new Refused(`wandb: ${shownAddress(url)}: ${problem.slice(0, 200)}`, 200);
  const checked = schema.safeParse(data);
  if (!checked.success) throw new Refused(`wandb: ${shownAddress(url)} gave an answer of another form`, 200);
  return checked.data;
}

function authorization({ key }: Account): Record<string, string> {
  return { Authorization: `Basic ${Buffer.from(`api:${key}`).toString("base64")}` };
}

class WandbOnline implements Tracker {
  readonly #outbox: Outbox;
  #run: SavedOutputs;
  #heartbeat: NodeJS.Timeout | undefined;
  /** Where the run is, as the service writes its names. */
  #address: WandbTarget;
  place: string | undefined;

  constructor(
    readonly account: Account,
    run: SavedOutputs,
    readonly options: TrackerOptions,
    timing: Partial<OutboxOptions>,
  ) {
    this.#run = run;
    this.#address = { entity: run.entity, project: run.project };
    this.#outbox = new Outbox("wandb", { warn: options.warn, ...timing });
  }

  async start(run: TrackedRun): Promise<number> {
    const first = this.#run.step + 1;
    this.#outbox.post({ vital: true, send: () => this.#upsert(run) });
    this.#heartbeat = setInterval(() => {
      if (this.#outbox.idle) this.#outbox.post({ send: () => this.#stream({}) });
    }, HEARTBEAT_MS);
    this.#heartbeat.unref();
    // The history is lines that are not written twice; what comes out again of steps that are done again stays away.
    return first;
  }

  async row(row: TrackedRow): Promise<void> {
    this.#outbox.post({
      send: async () => {
        const { values, media } = await historyOf(row, this.#run.began);
        if (media.length > 0) await this.#upload(media);
        const json = JSON.stringify(values);
        await this.#stream({
          files: {
            // A line a step, the base model's the first: sent again, it goes where it was.
            "wandb-history.jsonl": { offset: row.step, content: [json] },
            "wandb-summary.json": { offset: 0, content: [json] },
          },
          ...(media.length > 0 && { uploaded: media.map(({ path }) => path) }),
        });
        await this.#keep({ step: row.step });
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
    const { entity, project, id } = this.#run;
    const config = Object.entries(configOf({ ...settings, out: path })).map(([key, value]) => [key, { value }]);
    const variables = {
      name: id,
      project,
      entity,
      displayName: basename(path),
      config: JSON.stringify(Object.fromEntries(config)),
    };
    const { bucket } = (await graphql(this.account, UPSERT, variables, upserted)).upsertBucket;
    this.#address = { entity: bucket.project.entity.name, project: bucket.project.name };
    await this.#keep({});
    this.place = this.#page();
    this.options.tell(`wandb: ${this.place}`);
  }

  #page(): string {
    const { entity, project } = this.#address;
    return [this.account.app, ...[entity, project, "runs", this.#run.id].map(encodeURIComponent)].join("/");
  }

  async #upload(media: readonly MediaFile[]): Promise<void> {
    const variables = { ...this.#address, run: this.#run.id, files: media.map(({ path }) => path) };
    const { files, uploadHeaders } = (await graphql(this.account, CREATE_FILES, variables, uploads)).createRunFiles;
    const headers = Object.fromEntries((uploadHeaders ?? []).map((line) => line.split(/:\s*(.*)/s).slice(0, 2)));
    for (const { name, uploadUrl } of files) {
      const file = media.find(({ path }) => path === name);
      const url = URL.canParse(uploadUrl, this.account.server.href)
        ? new URL(uploadUrl, this.account.server)
        : undefined;
      if (file === undefined || !/^https?:$/.test(url?.protocol ?? "")) continue;
      // Other hosts have a signature in the address, and must not see the key.
      const own = (url as URL).origin === this.account.server.origin ? authorization(this.account) : {};
      const body = new Blob([file.bytes], { type: "image/png" });
      await send("wandb", url as URL, { method: "PUT", body, headers: { ...own, ...headers } });
    }
  }

  async #stream(json: object): Promise<void> {
    const { entity, project } = this.#address;
    const url = below(this.account.server, "files", entity, project, this.#run.id, "file_stream");
    await send("wandb", url, posted(json, authorization(this.account)));
  }

  async #keep(change: Partial<SavedOutputs>): Promise<void> {
    this.#run = { ...this.#run, ...change };
    await this.options.keep(this.#run);
  }
}
