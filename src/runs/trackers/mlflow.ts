/**
 * MLflow's tracking server, over its REST API (2.0): metrics, parameters, pictures in the form of `mlflow.log_image`, and at the
 * end the report and the adapter as artifacts.
 */
import { createHash } from "node:crypto";
import { openAsBlob } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import sharp from "sharp";
import { z } from "zod";
import type { SettingsOf } from "../../config/index.js";
import { InputError } from "../../errors/index.js";
import { exists } from "../../io/files.js";
import { filesToPush } from "../publish/index.js";
import { imageFileName, leaves, runFiles, stepFolder } from "../record/index.js";
import { Outbox, type OutboxOptions } from "./outbox.js";
import { below, Refused, send, sendJson, shownAddress, Unreachable } from "./request.js";
import { captionOf, type TrackedPicture, type TrackedRow } from "./row.js";
import type { Outcome, TrackedRun, Tracker, TrackerOptions } from "./tracker.js";

/** What the server takes at once, and of one thing (mlflow/utils/validation.py). */
const LIMITS = { metrics: 1000, params: 100, name: 250, param: 6000 } as const;

/** An id that goes into paths. */
const id = z.string().regex(/^[A-Za-z0-9][\w-]{0,255}$/);
const keptSchema = z.object({
  server: z.string(),
  experiment: id,
  run: id,
  artifacts: z.string(),
  began: z.int(),
  step: z.int().min(-1),
});
type SavedOutputs = z.output<typeof keptSchema>;

const foundExperiment = z.object({
  experiment: z.object({ experiment_id: id, lifecycle_stage: z.string().optional() }),
});
const madeExperiment = z.object({ experiment_id: id });
const foundRun = z.object({
  run: z.object({
    data: z.object({ metrics: z.array(z.object({ key: z.string(), step: z.coerce.number() })).default([]) }),
  }),
});
const madeRun = z.object({ run: z.object({ info: z.object({ run_id: id, artifact_uri: z.string() }) }) });

export async function openMlflow(
  settings: SettingsOf<"mlflow">,
  options: TrackerOptions,
  timing: Partial<OutboxOptions> = {},
): Promise<Tracker> {
  const server = serverOf(settings, options.env);
  const experiment = settings.experiment ?? (options.env.MLFLOW_EXPERIMENT_NAME || "alignprop");
  await requireServer(server, experiment);
  const kept = keptSchema.safeParse(options.kept).data;
  // A run that is kept on another server is not to be gone on with here.
  return new Mlflow(server, experiment, kept?.server === shownAddress(server.uri) ? kept : undefined, options, timing);
}

interface Server {
  /** Without user and password. */
  readonly uri: URL;
  readonly headers: Record<string, string>;
}

function serverOf({ uri }: SettingsOf<"mlflow">, env: NodeJS.ProcessEnv): Server {
  const written = uri ?? (env.MLFLOW_TRACKING_URI?.trim() || undefined);
  if (written === undefined) {
    throw new InputError(
      "server-failed",
      "mlflow: no server is given; set MLFLOW_TRACKING_URI, or trackers: [{ name: mlflow, uri: http://localhost:5000 }]",
    );
  }
  const from = uri === null ? "MLFLOW_TRACKING_URI" : "its uri";
  if (!URL.canParse(written) || !/^https?:$/.test(new URL(written).protocol)) {
    throw new InputError(
      "server-failed",
      `mlflow: ${from} must be the address of a tracking server, such as http://localhost:5000; folders and databases need one in front of them (mlflow server)`,
    );
  }
  const parsed = new URL(written);
  let [user, password] = [env.MLFLOW_TRACKING_USERNAME, env.MLFLOW_TRACKING_PASSWORD];
  if (parsed.username !== "" || parsed.password !== "") {
    // The settings are written to the run's folder, into checkpoints and to the tracker.
    if (uri !== null) {
      throw new InputError(
        "server-failed",
        "mlflow: its uri has a user or password in it, which the run's folder would tell; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead",
      );
    }
    [user, password] = [decodeURIComponent(parsed.username), decodeURIComponent(parsed.password)];
    parsed.username = "";
    parsed.password = "";
  }
  parsed.search = "";
  parsed.hash = "";
  const token = env.MLFLOW_TRACKING_TOKEN?.trim();
  const headers: Record<string, string> = {};
  // As Python's client: a user and a password come before a token.
  if (user && password) headers.Authorization = `Basic ${Buffer.from(`${user}:${password}`).toString("base64")}`;
  else if (token) {
    if (!/^[\x21-\x7e]+$/.test(token))
      throw new InputError("server-failed", "MLFLOW_TRACKING_TOKEN: has characters that no token has");
    headers.Authorization = `Bearer ${token}`;
  }
  return { uri: parsed, headers };
}

/** Before training: that there is a server, that it knows us, and that the experiment can take a run. */
async function requireServer(server: Server, experiment: string): Promise<void> {
  try {
    await experimentId(server, experiment);
  } catch (error) {
    if (error instanceof Refused && [401, 403].includes(error.status)) {
      const remedy = "set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD";
      throw new InputError("server-failed", `${error.message}; ${remedy}`);
    }
    if (error instanceof Refused)
      throw new InputError("server-failed", `${error.message}; is that an MLflow tracking server?`);
    if (error instanceof Unreachable)
      throw new InputError("server-failed", `${error.message}; is the server up, and its address right?`);
    throw error;
  }
}

/** Undefined where there is no such experiment yet. */
async function experimentId(server: Server, name: string): Promise<string | undefined> {
  const url = endpoint(server, "experiments", "get-by-name");
  url.searchParams.set("experiment_name", name);
  try {
    const { experiment } = checked(foundExperiment, await sendJson("mlflow", url, { headers: server.headers }), url);
    if (experiment.lifecycle_stage === "deleted") {
      throw new InputError(
        "server-failed",
        `mlflow: the experiment ${JSON.stringify(name)} is deleted; restore it, or name another`,
      );
    }
    return experiment.experiment_id;
  } catch (error) {
    if (error instanceof Refused && error.status === 404 && error.body.includes("RESOURCE_DOES_NOT_EXIST"))
      return undefined;
    throw error;
  }
}

function endpoint({ uri }: Server, ...path: readonly string[]): URL {
  return below(uri, "api", "2.0", "mlflow", ...path);
}

function checked<S extends z.ZodType>(schema: S, answer: unknown, url: URL): z.output<S> {
  const { data } = schema.safeParse(answer);
  if (data === undefined) throw new Refused(`mlflow: ${shownAddress(url)} gave an answer of another form`, 200);
  return data;
}

class Mlflow implements Tracker {
  readonly #outbox: Outbox;
  #run: SavedOutputs | undefined;
  #tracked: TrackedRun | undefined;
  #toldOfArtifacts = false;
  /** The last step whose numbers the server has, of a run that goes on. */
  #has = -1;
  place: string | undefined;

  constructor(
    readonly server: Server,
    readonly experiment: string,
    kept: SavedOutputs | undefined,
    readonly options: TrackerOptions,
    timing: Partial<OutboxOptions>,
  ) {
    this.#run = kept;
    this.#outbox = new Outbox("mlflow", { warn: options.warn, ...timing });
  }

  async start(run: TrackedRun): Promise<number> {
    this.#tracked = run;
    const started = this.#run;
    this.#outbox.post({
      vital: true,
      send: async () => {
        if (started === undefined) await this.#create(run);
        else await this.#goOn(started);
        this.#tell();
      },
    });
    // Parameters of a run cannot be changed: they stay those that it began with.
    if (started === undefined) {
      for (const params of batches(paramsOf(run), LIMITS.params)) {
        this.#outbox.post({ send: () => this.#logBatch({ params }) });
      }
    }
    // What the server has of steps that are done again is what comes out again; logging it twice would show it twice.
    return (started?.step ?? -1) + 1;
  }

  async row(row: TrackedRow): Promise<void> {
    const { step, scalars, pictures, time } = row;
    const metrics = [...scalars].map(([key, value]) => ({ key: metricName(key), value, timestamp: time, step }));
    for (const some of batches(metrics, LIMITS.metrics)) {
      this.#outbox.post({
        send: async () => {
          if (step > this.#has) await this.#logBatch({ metrics: some });
        },
      });
    }
    for (const [i, picture] of pictures.entries()) {
      this.#outbox.post({ send: () => this.#picture(row, picture, i) });
    }
    if (pictures.length > 0) {
      const captions = pictures.map((picture) => ({
        prompt: picture.prompt,
        seed: picture.seed,
        reward: picture.reward,
        caption: captionOf(picture),
      }));
      const path = [runFiles.samples, stepFolder(step), runFiles.sampleIndex];
      const index = `${JSON.stringify(captions, null, 2)}\n`;
      this.#outbox.post({ send: () => this.#artifact(path, new Blob([index])) });
    }
    this.#outbox.post({ send: () => this.#keep({ step }) });
  }

  async end(outcome: Outcome): Promise<void> {
    const { path, settings } = this.#tracked ?? {};
    if (path === undefined) return;
    const files = await takenAway(path, settings?.trainable === "lora");
    for (const [to, file] of files) {
      this.#outbox.post({ send: async () => this.#artifact(to, await openAsBlob(file)) });
    }
    const status = ({ finished: "FINISHED", stopped: "KILLED", failed: "FAILED" } as const)[outcome];
    const end_time = Date.now();
    this.#outbox.post({
      send: async () => {
        await this.#post(["runs", "update"], { run_id: this.#known.run, status, end_time });
      },
    });
    await this.#outbox.close();
  }

  /** The first letter makes it known, and without it none of the others is sent. */
  get #known(): SavedOutputs {
    if (this.#run === undefined) throw new Error("mlflow: the run is not made yet");
    return this.#run;
  }

  async #create({ path, settings }: TrackedRun): Promise<void> {
    const experiment = await this.#experiment();
    const began = Date.now();
    const answer = await this.#post(["runs", "create"], {
      experiment_id: experiment,
      run_name: basename(path),
      start_time: Date.now(),
      tags: [
        { key: "mlflow.source.name", value: "alignprop" },
        { key: "mlflow.source.type", value: "LOCAL" },
        // Its pages show pictures by step where this is set.
        { key: "mlflow.loggedImages", value: "True" },
        { key: "alignprop.model", value: settings.model },
      ],
    });
    const { run } = checked(madeRun, answer, endpoint(this.server, "runs", "create"));
    const { run_id, artifact_uri } = run.info;
    const server = shownAddress(this.server.uri);
    this.#run = { server, experiment, run: run_id, artifacts: artifact_uri, began, step: -1 };
    await this.#keep({});
  }

  /** What was sent in the moment before a kill may not have been noted any more: the server knows. */
  async #goOn({ run }: SavedOutputs): Promise<void> {
    await this.#post(["runs", "update"], { run_id: run, status: "RUNNING" });
    const url = endpoint(this.server, "runs", "get");
    url.searchParams.set("run_id", run);
    const found = checked(foundRun, await sendJson("mlflow", url, { headers: this.server.headers }), url);
    this.#has = Math.max(-1, ...found.run.data.metrics.map(({ step }) => step));
  }

  async #experiment(): Promise<string> {
    const there = await experimentId(this.server, this.experiment);
    if (there !== undefined) return there;
    try {
      const answer = await this.#post(["experiments", "create"], { name: this.experiment });
      return checked(madeExperiment, answer, endpoint(this.server, "experiments", "create")).experiment_id;
    } catch (error) {
      // Another run has made it in the meantime.
      const now = error instanceof Refused ? await experimentId(this.server, this.experiment) : undefined;
      if (now === undefined) throw error;
      return now;
    }
  }

  #tell(): void {
    const { experiment, run } = this.#known;
    this.place = `${shownAddress(this.server.uri)}/#/experiments/${experiment}/runs/${run}`;
    this.options.tell(`mlflow: ${this.place}`);
  }

  async #keep(change: { step?: number }): Promise<void> {
    this.#run = { ...this.#known, ...change };
    await this.options.keep(this.#run);
  }

  async #post(path: readonly string[], json: object): Promise<unknown> {
    return sendJson("mlflow", endpoint(this.server, ...path), { headers: this.server.headers, json });
  }

  async #logBatch(content: object): Promise<void> {
    await this.#post(["runs", "log-batch"], { run_id: this.#known.run, ...content });
  }

  /** The picture and a small one beside it, under the names that MLflow's pages look for. */
  async #picture({ step }: TrackedRow, { prompt, path }: TrackedPicture, i: number) {
    const key = imageFileName(prompt, i).replace(/\.png$/, "");
    // Both are the same when the picture is sent again.
    const time = this.#known.began + step;
    const hash = createHash("sha256").update(`${this.#known.run} ${step} ${i}`).digest("hex");
    const uuid = hash.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12}).*$/, "$1-$2-$3-$4-$5");
    const name = `${key}+step+${step}+timestamp+${time}+${uuid}`;
    const png = await readFile(path);
    const small = await sharp(png)
      .resize({ width: 256, height: 256, fit: "inside", withoutEnlargement: true })
      .webp()
      .toBuffer();
    await this.#artifact(["images", `${name}.png`], new Blob([png], { type: "image/png" }));
    await this.#artifact(["images", `${name}+compressed.webp`], new Blob([small], { type: "image/webp" }));
  }

  /** Through the server, where it keeps artifacts itself; what lies elsewhere needs keys that it does not give. */
  async #artifact(path: readonly string[], body: Blob): Promise<void> {
    const { artifacts } = this.#known;
    const folder = URL.canParse(artifacts) ? new URL(artifacts) : undefined;
    if (folder?.protocol !== "mlflow-artifacts:") {
      if (!this.#toldOfArtifacts) {
        this.options.warn(
          `mlflow: the server keeps artifacts at ${folder?.protocol ?? "a folder of its own"} and takes none over HTTP (mlflow server --serve-artifacts); pictures and adapter stay in the run's folder`,
        );
      }
      this.#toldOfArtifacts = true;
      return;
    }
    const inside = folder.pathname.split("/").filter(Boolean).map(decodeURIComponent);
    const url = below(this.server.uri, "api", "2.0", "mlflow-artifacts", "artifacts", ...inside, ...path);
    await send("mlflow", url, { method: "PUT", body, headers: this.server.headers });
  }
}

/** What people take away from a run: its report, and of an adapter the files of the best checkpoint. */
async function takenAway(run: string, adapter: boolean): Promise<[string[], string][]> {
  const report = join(run, runFiles.report);
  const files: [string[], string][] = (await exists(report)) ? [[[runFiles.report], report]] : [];
  if (!adapter) return files;
  // A run that ended before its first checkpoint has none.
  const pushed = await filesToPush(run).catch(() => []);
  return [...files, ...pushed.map(({ path, file }): [string[], string] => [["adapter", ...path.split("/")], file])];
}

function paramsOf({ settings }: TrackedRun): { key: string; value: string }[] {
  return [...leaves(settings)].map(([key, json]) => {
    const value: unknown = JSON.parse(json);
    const text = typeof value === "string" ? value : json;
    return { key: metricName(key), value: text.length > LIMITS.param ? `${text.slice(0, LIMITS.param - 1)}…` : text };
  });
}

/** Letters, digits, and a few signs are what names may hold. */
function metricName(key: string): string {
  return key.replace(/[^\w\-. /]/g, "_").slice(0, LIMITS.name);
}

function batches<T>(items: readonly T[], most: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / most) }, (_, i) => items.slice(i * most, (i + 1) * most));
}
