/** Opens the model that settings name: a folder, a single file, or an id of the Hugging Face hub. */
import { existsSync, readdirSync } from "node:fs";
import { dirname, resolve } from "node:path";
import type { LoadingSettings, ModelSettings } from "../config/index.js";
import { InputError, nearest } from "../errors/index.js";
import { locate, shippedModels } from "../io/package.js";
import { adapterFiles } from "../weights/hub/adapter-files.js";
import { DEFAULT_REVISION, type HubId, hubOf, parseHubId, saysHub, showId } from "../weights/hub/id.js";
import { pipelineFiles, tokenizerFiles } from "../weights/hub/pipeline-files.js";
import { type Choose, type FetchProgress, snapshot } from "../weights/hub/snapshot.js";
import { isSingleFile } from "../weights/ldm/single-file.js";
import { CLIP_TOKENIZER, tokenizerBeside, tokenizerIn } from "../weights/ldm/tokenizer.js";
import { requireKind } from "../weights/look/kinds.js";
import { look } from "../weights/look/look.js";
import { type OpenOptions, openPipeline, type Pipeline } from "./pipeline.js";

/** Callbacks while a model or a reward is opened. */
export interface OpenListener {
  /** Called with each warning, such as a guess about a file or the use of a cached copy. */
  readonly warn?: ((message: string) => void) | undefined;
  /** Called with the progress of downloads. */
  readonly onFetch?: ((progress: FetchProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

export async function openModel(settings: ModelSettings, listener: OpenListener = {}): Promise<Pipeline> {
  const { path, ...options } = await resolveModel(settings, listener);
  return openPipeline(path, { ...options, note: listener.warn });
}

/** The files of a model on this machine. Files on the hub are downloaded first. */
export async function resolveModel(
  { model, loading }: ModelSettings,
  listener: OpenListener = {},
): Promise<{ readonly path: string } & OpenOptions> {
  const fetch = (id: HubId, choose: Choose) => fetchInto(id, choose, loading?.offline ?? false, listener);
  const prediction = loading?.prediction_type ?? undefined;
  const id = hubIdOf(model, "model", loading?.revision ?? undefined);
  const path = !id ? locate(model) : await fetch(id, id.file === undefined ? pipelineFiles(showId(id)) : only(id.file));
  requireKind(await look(path, { prediction }), "model", "a model");
  if (!(await isSingleFile(path))) return { path, prediction };

  const folderOf = (location: string, setting: string, choose: (what: string) => Choose) =>
    findLocation(location, choose, { setting, loading, listener });
  if (loading?.config != null) {
    const choose = (what: string) => pipelineFiles(what, { weights: false });
    return { path, prediction, config: await folderOf(loading.config, "loading.config", choose) };
  }
  const tokenizer = loading?.tokenizer ?? (await tokenizerBeside(path));
  const folder =
    tokenizer === undefined
      ? await fetch({ repo: CLIP_TOKENIZER, revision: DEFAULT_REVISION }, tokenizerFiles(CLIP_TOKENIZER)).catch(
          (error) => {
            throw withoutTokenizer(path, error);
          },
        )
      : await folderOf(tokenizer, "loading.tokenizer", tokenizerFiles);
  return { path, prediction, tokenizer: (await tokenizerIn(folder)) ?? folder };
}

export interface FindOptions {
  /** The key that names the location, for messages. */
  readonly setting: string;
  readonly loading: Pick<LoadingSettings, "offline"> | undefined;
  readonly listener: OpenListener;
}

/**
 * The path of a location, which is a path or a hub id. Files on the hub are downloaded first. `choose` picks the files of a
 * repository if the id names no file.
 */
export async function findLocation(
  location: string,
  choose: (what: string) => Choose,
  { setting, loading, listener }: FindOptions,
): Promise<string> {
  const id = hubIdOf(location, setting);
  if (!id) return locate(location);
  return fetchInto(id, id.file === undefined ? choose(showId(id)) : only(id.file), loading?.offline ?? false, listener);
}

/** The path of an adapter: a file, a folder, or one of the hub, of which the adapter's files are downloaded first. */
export function findAdapter(location: string, options: FindOptions): Promise<string> {
  return findLocation(location, adapterFiles, options);
}

function withoutTokenizer(path: string, error: unknown): unknown {
  if (!(error instanceof InputError)) return error;
  return new InputError(
    "model-incomplete",
    `${path}: a single file contains no tokenizer, and it cannot be downloaded from the hub. Put CLIP's vocab.json and merges.txt beside the file, or set loading.tokenizer to their folder. (${error.message})`,
    { path, setting: "loading.tokenizer", reason: error.message },
  );
}

function only(file: string): Choose {
  return async () => [file];
}

async function fetchInto(id: HubId, choose: Choose, offline: boolean, listener: OpenListener): Promise<string> {
  const { signal, onFetch: onProgress, warn: note } = listener;
  const folder = await snapshot(id, choose, { hub: hubOf(process.env, { offline }), signal, onProgress, note });
  return id.file === undefined ? folder : resolve(folder, id.file);
}

/**
 * The hub id that a location is, or undefined if it is a path. A location is a path if it exists, begins like a path, or
 * starts with an existing folder, so that a misspelled folder is reported as such and not searched on the hub.
 */
function hubIdOf(location: string, setting: string, revision?: string): HubId | undefined {
  if (saysHub(location)) {
    const id = parseHubId(location, revision);
    if (id) return id;
    throw new InputError(
      "hub-id-invalid",
      `${setting}: ${location} is not an id of the Hugging Face hub, such as hf://org/name or hf://org/name@main`,
      { setting, found: location },
    );
  }
  if (existsSync(locate(location))) return undefined;
  // `loras/style.safetensors` has the form of an id, but no repository is called like a file of weights.
  const isPath =
    /^[~.]|^\/|\\/.test(location) || /^[^/]+\/[^/]+\.(safetensors|ckpt|pth?|bin|onnx|gguf)$/.test(location);
  const id = isPath ? undefined : parseHubId(location, revision);
  if (!id) return undefined;
  const [parent] = location.split("/") as [string];
  if (!existsSync(locate(parent))) return id;
  const folder = dirname(locate(location));
  const beside = existsSync(folder) ? readdirSync(folder).map((name) => `${dirname(location)}/${name}`) : [];
  const suggestion = nearest(location, [...beside, ...(setting === "model" ? shippedModels() : [])]);
  throw new InputError(
    setting === "model" ? "model-not-found" : "file-not-found",
    `${setting}: ${location} was not found in the folder ${folder}.${suggestion ? ` Did you mean ${suggestion}?` : ""} If it is on the Hugging Face hub, write hf://${location}`,
    { setting, path: location, suggestion },
  );
}
