/** From what `model` names to an opened model: a folder, a single file or an id of the Hugging Face hub. */
import { existsSync } from "node:fs";
import { dirname, resolve } from "node:path";
import type { Settings } from "../config/settings.js";
import { InputError, nearest } from "../errors/index.js";
import { locate, shippedModels } from "../io/package.js";
import { DEFAULT_REVISION, type HubId, hubOf, parseHubId, saysHub, showId } from "../weights/hub/id.js";
import { pipelineFiles, tokenizerFiles } from "../weights/hub/pipeline-files.js";
import { type Choose, type FetchProgress, snapshot } from "../weights/hub/snapshot.js";
import { CLIP_TOKENIZER, isSingleFile, tokenizerBeside, tokenizerIn } from "../weights/ldm/single-file.js";
import { type OpenOptions, openPipeline, type Pipeline } from "./pipeline.js";

/** How whoever waits is told. */
export interface OpenListener {
  /** Told of what had to be guessed, and of a cached copy that had to do. */
  readonly warn?: ((message: string) => void) | undefined;
  /** Told how a download goes on. */
  readonly onFetch?: ((progress: FetchProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

export type ModelSettings = Pick<Settings, "model"> & { readonly loading?: Settings["loading"] };

export async function openModel(settings: ModelSettings, listener: OpenListener = {}): Promise<Pipeline> {
  const { path, ...options } = await resolveModel(settings, listener);
  return openPipeline(path, { ...options, note: listener.warn });
}

/** Files on this machine for what `model` names; those of the hub are fetched first. */
export async function resolveModel(
  { model, loading }: ModelSettings,
  listener: OpenListener = {},
): Promise<{ readonly path: string } & OpenOptions> {
  const fetch = (id: HubId, choose: Choose) => fetchInto(id, choose, loading?.offline ?? false, listener);
  const prediction = loading?.prediction_type ?? undefined;
  const id = hubIdOf(model, "model", loading?.revision ?? undefined);
  const path = !id ? locate(model) : await fetch(id, id.file === undefined ? pipelineFiles(showId(id)) : only(id.file));
  if (!(await isSingleFile(path))) return { path, prediction };

  const folderOf = (place: string, setting: string, choose: (what: string) => Choose) =>
    findPlace(place, setting, choose, loading, listener);
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

/**
 * Where a setting's path or hub id lies on this machine; what is on the hub is fetched first. `choose` says which files of a
 * repository are needed where the id names none itself.
 */
export async function findPlace(
  place: string,
  setting: string,
  choose: (what: string) => Choose,
  loading: Settings["loading"] | undefined,
  listener: OpenListener,
): Promise<string> {
  const id = hubIdOf(place, setting);
  if (!id) return locate(place);
  return fetchInto(id, id.file === undefined ? choose(showId(id)) : only(id.file), loading?.offline ?? false, listener);
}

function withoutTokenizer(path: string, error: unknown): unknown {
  if (!(error instanceof InputError)) return error;
  return new InputError(
    "model-mismatch",
    `${path}: a single file holds no tokenizer, and none can be had from the hub. Put CLIP's vocab.json and merges.txt beside it, or name their folder with loading.tokenizer. (${error.message})`,
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
 * The hub's id that `place` is, or undefined where it is a path. What exists is a path, and so is what begins like one or
 * lies in a folder that exists: a misspelt folder is told as such and not looked for in the hub.
 */
function hubIdOf(place: string, setting: string, revision?: string): HubId | undefined {
  if (saysHub(place)) {
    const id = parseHubId(place, revision);
    if (id) return id;
    throw new InputError(
      "model-mismatch",
      `${setting}: ${place} is no id of the Hugging Face hub, such as hf://org/name or hf://org/name@main`,
    );
  }
  if (existsSync(locate(place))) return undefined;
  const id = /^[~.]|^\/|\\/.test(place) ? undefined : parseHubId(place, revision);
  if (!id) return undefined;
  const [parent] = place.split("/") as [string];
  if (!existsSync(locate(parent))) return id;
  const near = nearest(place, shippedModels());
  throw new InputError(
    "model-mismatch",
    `${setting}: ${place}: not found in the folder ${dirname(locate(place))}.${near ? ` Is it ${near}?` : ""} For a model of the Hugging Face hub write hf://${place}`,
  );
}
