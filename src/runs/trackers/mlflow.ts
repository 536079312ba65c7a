/**
 * Tracking in MLflow: metrics, parameters, images in the layout of `mlflow.log_image`, and at the end the report and
 * the adapter as artifacts.
 */

import { createHash } from "node:crypto";
import { openAsBlob } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { z } from "zod";
import type { SettingsOf } from "../../config/index.js";
import { loadSharp } from "../../images/sharp.js";
import { exists } from "../../io/files.js";
import { filesToPush } from "../publish/index.js";
import { imageFileName, leaves, runFiles, stepFolder } from "../record/index.js";
import { checked, endpoint, experimentId, idSchema, requireServer, type Server, serverOf } from "./mlflow-server.js";
import { Outbox, type OutboxOptions } from "./outbox.js";
import { atPath, Refused, send, sendJson, shownAddress } from "./request.js";
import { captionOf, type TrackedImage, type TrackedRow } from "./row.js";
import type { Outcome, TrackedRun, Tracker, TrackerOptions } from "./tracker.js";

/** Limits of the server (mlflow/utils/validation.py): entries per request, and characters. */
const LIMITS = { metrics: 1000, params: 100, name: 250, param: 6000 } as const;

const stateSchema = z.object({
  server: z.string(),
  experiment: idSchema,
  run: idSchema,
  /** Address of the run's artifacts. */
  artifacts: z.string(),
  /** Milliseconds since 1970. */
  began: z.int(),
  /** The last step that was sent; -1 if none was. */
  step: z.int().min(-1),
});
type State = z.output<typeof stateSchema>;

const createdExperiment = z.object({ experiment_id: idSchema });
const foundRun = z.object({
  run: z.object({
    data: z.object({ metrics: z.array(z.object({ key: z.string(), step: z.coerce.number() })).default([]) }),
  }),
});
const createdRun = z.object({ run: z.object({ info: z.object({ run_id: idSchema, artifact_uri: z.string() }) }) });

/** @throws InputError `setting-invalid` or `server-failed` */
export async function openMlflow(
  settings: SettingsOf<"mlflow">,
  options: TrackerOptions,
  timing: Partial<OutboxOptions> = {},
): Promise<Tracker> {
  const server = serverOf(settings, options.env);
  const experiment = settings.experiment ?? (options.env.MLFLOW_EXPERIMENT_NAME || "alignprop");
  await requireServer(server, experiment);
  const saved = stateSchema.safeParse(options.saved).data;
  // A run on another server cannot be continued on this one.
  const state = saved?.server === shownAddress(server.uri) ? saved : undefined;
  return new Mlflow({ server, experiment, state, options, timing });
}

interface MlflowOptions {
  readonly server: Server;
  readonly experiment: string;
  /** State of the run that is continued; undefined for a new run. */
  readonly state: State | undefined;
  readonly options: TrackerOptions;
  readonly timing: Partial<OutboxOptions>;
}

class Mlflow implements Tracker {
  readonly #server: Server;
  readonly #experiment: string;
  readonly #options: TrackerOptions;
  readonly #outbox: Outbox;
  #state: State | undefined;
  #run: TrackedRun | undefined;
  #warnedOfArtifacts = false;
  /** The last step whose metrics the server had when a run was resumed; -1 if none. */
  #lastStep = -1;
  place: string | undefined;

  constructor({ server, experiment, state, options, timing }: MlflowOptions) {
    this.#server = server;
    this.#experiment = experiment;
    this.#options = options;
    this.#state = state;
    this.#outbox = new Outbox("mlflow", { warn: options.warn, ...timing });
  }

  async start(run: TrackedRun): Promise<number> {
    this.#run = run;
    const resumed = this.#state;
    this.#outbox.post({
      vital: true,
      send: async () => {
        if (resumed === undefined) await this.#create(run);
        else await this.#resume(resumed);
        this.#tell();
      },
    });
    // MLflow does not allow a run's parameters to change, so a resumed run keeps those that it began with.
    if (resumed === undefined) {
      for (const params of batches(paramsOf(run), LIMITS.params)) {
        this.#outbox.post({ send: () => this.#logBatch({ params }) });
      }
    }
    // Repeated steps give the same numbers. MLflow would show them twice if they were logged twice.
    return (resumed?.step ?? -1) + 1;
  }

  async row(row: TrackedRow): Promise<void> {
    const { step, scalars, images, time } = row;
    const metrics = [...scalars].map(([key, value]) => ({ key: metricName(key), value, timestamp: time, step }));
    for (const some of batches(metrics, LIMITS.metrics)) {
      this.#outbox.post({
        send: async () => {
          if (step > this.#lastStep) await this.#logBatch({ metrics: some });
        },
      });
    }
    for (const [i, image] of images.entries()) {
      this.#outbox.post({ send: () => this.#logImage(row, image, i) });
    }
    if (images.length > 0) {
      const captions = images.map((image) => ({
        prompt: image.prompt,
        seed: image.seed,
        reward: image.reward,
        caption: captionOf(image),
      }));
      const path = [runFiles.samples, stepFolder(step), runFiles.sampleIndex];
      const index = `${JSON.stringify(captions, null, 2)}\n`;
      this.#outbox.post({ send: () => this.#logArtifact(path, new Blob([index])) });
    }
    this.#outbox.post({ send: () => this.#save({ step }) });
  }

  async end(outcome: Outcome): Promise<void> {
    const { path, settings } = this.#run ?? {};
    if (path === undefined) return;
    const files = await finalArtifacts(path, settings?.trainable === "lora");
    for (const [to, file] of files) {
      this.#outbox.post({ send: async () => this.#logArtifact(to, await openAsBlob(file)) });
    }
    const status = ({ finished: "FINISHED", stopped: "KILLED", failed: "FAILED" } as const)[outcome];
    const end_time = Date.now();
    this.#outbox.post({
      send: async () => {
        await this.#post(["runs", "update"], { run_id: this.#created.run, status, end_time });
      },
    });
    await this.#outbox.close();
  }

  /** The first delivery creates the run. Without it, the outbox sends none of the others. */
  get #created(): State {
    if (this.#state === undefined) throw new Error("mlflow: the run is not created yet");
    return this.#state;
  }

  async #create({ path, settings }: TrackedRun): Promise<void> {
    const experiment = await this.#findOrCreateExperiment();
    const began = Date.now();
    const answer = await this.#post(["runs", "create"], {
      experiment_id: experiment,
      run_name: basename(path),
      start_time: Date.now(),
      tags: [
        { key: "mlflow.source.name", value: "alignprop" },
        { key: "mlflow.source.type", value: "LOCAL" },
        // With this tag, MLflow's pages show the images by step.
        { key: "mlflow.loggedImages", value: "True" },
        { key: "alignprop.model", value: settings.model },
      ],
    });
    const { run } = checked(createdRun, answer, endpoint(this.#server, "runs", "create"));
    const { run_id, artifact_uri } = run.info;
    const server = shownAddress(this.#server.uri);
    this.#state = { server, experiment, run: run_id, artifacts: artifact_uri, began, step: -1 };
    await this.#save({});
  }

  /**
   * Asks the server for the last step, because a process may be killed after it sent a row and before it saved its
   * state.
   */
  async #resume({ run }: State): Promise<void> {
    await this.#post(["runs", "update"], { run_id: run, status: "RUNNING" });
    const url = endpoint(this.#server, "runs", "get");
    url.searchParams.set("run_id", run);
    const found = checked(foundRun, await sendJson("mlflow", url, { headers: this.#server.headers }), url);
    this.#lastStep = Math.max(-1, ...found.run.data.metrics.map(({ step }) => step));
  }

  async #findOrCreateExperiment(): Promise<string> {
    const existing = await experimentId(this.#server, this.#experiment);
    if (existing !== undefined) return existing;
    try {
      const answer = await this.#post(["experiments", "create"], { name: this.#experiment });
      return checked(createdExperiment, answer, endpoint(this.#server, "experiments", "create")).experiment_id;
    } catch (error) {
      // Another run may have created it in the meantime.
      const created = error instanceof Refused ? await experimentId(this.#server, this.#experiment) : undefined;
      if (created === undefined) throw error;
      return created;
    }
  }

  #tell(): void {
    const { experiment, run } = this.#created;
    this.place = `${shownAddress(this.#server.uri)}/#/experiments/${experiment}/runs/${run}`;
    this.#options.tell(`mlflow: ${this.place}`);
  }

  async #save(change: { step?: number }): Promise<void> {
    this.#state = { ...this.#created, ...change };
    await this.#options.save(this.#state);
  }

  async #post(path: readonly string[], json: object): Promise<unknown> {
    return sendJson("mlflow", endpoint(this.#server, ...path), { headers: this.#server.headers, json });
  }

  async #logBatch(content: object): Promise<void> {
    await this.#post(["runs", "log-batch"], { run_id: this.#created.run, ...content });
  }

  /** Uploads the image and a thumbnail, under the names that MLflow's pages look for. */
  async #logImage({ step }: TrackedRow, { prompt, path }: TrackedImage, i: number) {
    const key = imageFileName(prompt, i).replace(/\.png$/, "");
    // Time and UUID are the same if the image is sent again.
    const time = this.#created.began + step;
    const hash = createHash("sha256").update(`${this.#created.run} ${step} ${i}`).digest("hex");
    const uuid = hash.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12}).*$/, "$1-$2-$3-$4-$5");
    const name = `${key}+step+${step}+timestamp+${time}+${uuid}`;
    const png = await readFile(path);
    const sharp = await loadSharp();
    const thumbnail = await sharp(png)
      .resize({ width: 256, height: 256, fit: "inside", withoutEnlargement: true })
      .webp()
      .toBuffer();
    await this.#logArtifact(["images", `${name}.png`], new Blob([png], { type: "image/png" }));
    await this.#logArtifact(["images", `${name}+compressed.webp`], new Blob([thumbnail], { type: "image/webp" }));
  }

  /**
   * Uploads through the tracking server. Another artifact store would need credentials that the server does not give.
   */
  async #logArtifact(path: readonly string[], body: Blob): Promise<void> {
    const { artifacts } = this.#created;
    const folder = URL.canParse(artifacts) ? new URL(artifacts) : undefined;
    if (folder?.protocol !== "mlflow-artifacts:") {
      if (!this.#warnedOfArtifacts) {
        this.#options.warn(
          `mlflow: the server stores artifacts at ${folder?.protocol ?? "a folder of its own"} and does not accept them over HTTP. ` +
            "Images and adapter stay in the run's folder. To upload them, start the server with --serve-artifacts.",
        );
      }
      this.#warnedOfArtifacts = true;
      return;
    }
    const inside = folder.pathname.split("/").filter(Boolean).map(decodeURIComponent);
    const url = atPath(this.#server.uri, "api", "2.0", "mlflow-artifacts", "artifacts", ...inside, ...path);
    await send("mlflow", url, { method: "PUT", body, headers: this.#server.headers });
  }
}

/**
 * Artifacts of the whole run, as [path in the server, file]: the report, and the best adapter if the run trains one.
 */
async function finalArtifacts(run: string, adapter: boolean): Promise<[string[], string][]> {
  const report = join(run, runFiles.report);
  const files: [string[], string][] = (await exists(report)) ? [[[runFiles.report], report]] : [];
  if (!adapter) return files;
  // A run that ended before its first checkpoint has no adapter.
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

/** MLflow allows only letters, digits and a few other characters in names. */
function metricName(key: string): string {
  return key.replace(/[^\w\-. /]/g, "_").slice(0, LIMITS.name);
}

function batches<T>(items: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, i) => items.slice(i * size, (i + 1) * size));
}
