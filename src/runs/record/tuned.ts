/** Opens what `--adapter` names: a run, a checkpoint, an adapter of another tool, or several of them with weights. */
import { existsSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import type { LoadingSettings } from "../../config/index.js";
import { InputError } from "../../errors/index.js";
import { exists } from "../../io/files.js";
import { addAdapters, findAdapter, type OpenListener, UNET_FILES } from "../../pipeline/index.js";
import { openWeights } from "../../weights/folder.js";
import type { Adapter, LoraAdapter } from "../../weights/lora-files.js";
import { readAdapter, requireLora } from "../../weights/read-adapter.js";
import type { WeightSource } from "../../weights/source.js";
import { adapterPath, isRun } from "./checkpoints.js";
import { runFiles } from "./layout.js";

/** The fine-tuned weights: an adapter, or a whole U-Net if the run trained with `trainable: unet`. */
export type Tuned = { readonly adapter: Adapter } | { readonly unet: WeightSource };

export interface TunedOptions extends OpenListener {
  readonly loading?: Pick<LoadingSettings, "offline"> | undefined;
}

export async function openTuned(path: string, options: TunedOptions = {}): Promise<Tuned> {
  const { loading, warn } = options;
  const local = await findAdapter(path, { setting: "--adapter", loading, listener: options });
  const found = await adapterPath(local);
  // A whole model has a folder unet/ too.
  const isModel = await exists(join(found, "model_index.json"));
  if (!isModel && (await exists(join(found, UNET_FILES.config))))
    return { unet: await openWeights(join(found, "unet")) };
  return { adapter: await readAdapter(found, { ...(warn && { warn }) }) };
}

/** An adapter and the factor of its change of the weights. */
export interface AdapterChoice {
  readonly path: string;
  readonly weight: number;
}

/** Parses `PATH` or `PATH:0.7`. A path that exists is never cut. */
export function adapterChoice(text: string): AdapterChoice {
  const match = /^(.+):([+-]?(?:\d+\.?\d*|\.\d+))$/.exec(text);
  const [, path, weight] = match ?? [];
  if (path === undefined || weight === undefined || existsSync(text)) return { path: text, weight: 1 };
  return { path, weight: Number(weight) };
}

/**
 * Opens several adapters as one: the sum of their changes, each times its weight. A whole U-Net can only be used alone.
 *
 * @throws InputError `adapter-unsupported` if one of several is a whole U-Net, or has a weight other than 1
 */
export async function openAllTuned(
  choices: readonly AdapterChoice[],
  options: TunedOptions = {},
): Promise<Partial<Tuned>> {
  const opened: { readonly adapter: Adapter; readonly weight: number }[] = [];
  for (const { path, weight } of choices) {
    const tuned = await openTuned(path, options);
    if ("adapter" in tuned) opened.push({ adapter: tuned.adapter, weight });
    else if (choices.length === 1 && weight === 1) return tuned;
    else throw wholeUnet(path, "it cannot be added to an adapter or have a weight");
  }
  return opened.length === 0 ? {} : { adapter: addAdapters(opened) };
}

/**
 * Opens an adapter where neither a whole U-Net nor DoRA can be used. `why` gives the reason for the message: "mix blends
 * adapters".
 *
 * @throws InputError `adapter-unsupported` if `path` holds one of these
 */
export async function openAdapter(path: string, why: string, options: TunedOptions = {}): Promise<LoraAdapter> {
  const tuned = await openTuned(path, options);
  if ("adapter" in tuned) return requireLora(tuned.adapter, path);
  throw wholeUnet(path, why);
}

function wholeUnet(path: string, why: string): InputError {
  return new InputError(
    "adapter-unsupported",
    `${path}: holds a whole U-Net (trainable: unet), not an adapter, but ${why}. Give a run that trained an adapter.`,
    { path, found: "unet", expected: "adapter" },
  );
}

/** Path of the config.yaml of the run that `path` belongs to; undefined if it is not in a run's folder. */
export async function recipeOfAdapter(path: string): Promise<string | undefined> {
  // `path` may be a run's folder, a checkpoint in it, or a file in a checkpoint.
  const parent = dirname(resolve(path));
  const above = [parent, dirname(parent)].filter((folder) => basename(folder) === runFiles.checkpoints);
  for (const run of [path, ...above.map(dirname)]) if (await isRun(run)) return join(run, runFiles.config);
  return undefined;
}

/** The same of the first of several adapters that belongs to a run. */
export async function recipeOfAdapters(choices: readonly AdapterChoice[] = []): Promise<string | undefined> {
  for (const { path } of choices) {
    const recipe = await recipeOfAdapter(path);
    if (recipe !== undefined) return recipe;
  }
  return undefined;
}
