/** Reads an adapter of the U-Net, from a file of any tool or from a folder that diffusers or PEFT saved. */
import { basename, dirname, join } from "node:path";
import { InputError } from "../errors/index.js";
import { exists, readText } from "../io/files.js";
import { parseJson } from "../io/json.js";
import { adapterFile, DIFFUSERS_WEIGHTS, PEFT_CONFIG, PEFT_WEIGHTS } from "./adapter-file.js";
import { buildModule } from "./adapter-module.js";
import { requireKind } from "./look/kinds.js";
import { look } from "./look/look.js";
import { type AdapterConfig, readAdapterConfig } from "./lora-config.js";
import type { Adapter, DoraModule, LoraAdapter, LoraModule } from "./lora-files.js";
import { type AdapterRole, adapterKey, modulesAbove, shownKey } from "./lora-names.js";
import type { WeightFile } from "./source.js";
import { openWeightFile } from "./weight-file.js";

export interface ReadLoraOptions {
  /** Receives a message about what is left out. */
  readonly warn?: (message: string) => void;
}

/**
 * Reads an adapter of the U-Net from a file with any of the names that `lora-names.ts` knows, or from a folder that
 * diffusers, PEFT or AlignProp saved. Layers of the text encoder are left out. `loadAdapter` also takes a run folder.
 *
 * @example
 * const adapter = await readLora("pytorch_lora_weights.safetensors");
 *
 * @throws InputError when the file is damaged, is not an adapter, adapts only the text encoder, or is DoRA, which is not
 *   an adapter by itself but only with a model
 */
export async function readLora(path: string, options: ReadLoraOptions = {}): Promise<LoraAdapter> {
  return requireLora(await readAdapter(path, options), path);
}

/** @throws InputError `adapter-unsupported` if a module is DoRA */
export function requireLora(adapter: Adapter, path: string): LoraAdapter {
  for (const [module, { magnitude }] of adapter) {
    if (!magnitude) continue;
    throw new InputError(
      "adapter-unsupported",
      `${path}: is DoRA (${module} has magnitudes). Its change depends on the model's weights, so it can be used to generate ` +
        "and to evaluate, but not to be trained further, mixed or converted. Give a LoRA.",
      { path, module, found: "DoRA", expected: "LoRA" },
    );
  }
  return adapter as LoraAdapter;
}

/**
 * Reads an adapter as `readLora` does, DoRA included, for `generate`, `evaluate` and `addAdapters`.
 *
 * @throws InputError as `readLora` does
 * @example
 * const adapter = await readAdapter("style.safetensors");
 * const [fox] = await generate({ ...settings, images: [{ prompt: "fox", seed: 7 }], adapter });
 */
export async function readAdapter(path: string, options: ReadLoraOptions = {}): Promise<Adapter> {
  try {
    return await read(path, options);
  } catch (error) {
    // A file of another kind is named as what it is.
    if (error instanceof InputError) requireKind(await look(path), "adapter", "an adapter");
    throw error;
  }
}

async function read(path: string, { warn = () => {} }: ReadLoraOptions): Promise<Adapter> {
  const found = await adapterFile(path);
  const file = await openWeightFile(found);
  const config = await configBeside(file, { isOnlyAdapter: found !== path });
  const { modules, leftOut, unknown } = groupKeys(file);
  if (modules.size === 0) throw notUsable(file, leftOut, unknown);
  warnOfRest(file, { leftOut, unknown, warn });
  const adapter = new Map<string, LoraModule | DoraModule>();
  for (const [module, keys] of modules) {
    const inUnet = module.slice("unet.".length);
    const alpha = (rank: number) => config?.alpha(inUnet, rank);
    adapter.set(module, await buildModule({ file, module, keys, alpha, rank: config?.rank(inUnet) }));
  }
  if (config?.usesDora && ![...adapter.values()].some(({ magnitude }) => magnitude)) {
    const setting = config.doraSetting;
    throw new InputError(
      "adapter-unsupported",
      `${file.describe}: ${setting} says that this is DoRA, but no layer has magnitudes (lora_magnitude_vector). Save it again.`,
      { path: file.describe, setting, missing: "lora_magnitude_vector" },
    );
  }
  return adapter;
}

interface KeyGroups {
  /** The tensors of each layer of the U-Net. */
  readonly modules: ReadonlyMap<string, Partial<Record<AdapterRole, string>>>;
  /** Layers of other models. */
  readonly leftOut: ReadonlySet<string>;
  /** Tensors with other names. */
  readonly unknown: readonly string[];
}

function groupKeys(file: WeightFile): KeyGroups {
  const modules = new Map<string, Partial<Record<AdapterRole, string>>>();
  const leftOut = new Set<string>();
  const unknown: string[] = [];
  const names = new Set<string>();
  for (const key of file.names()) {
    const found = adapterKey(key, file.describe);
    if (!found) {
      unknown.push(key);
      continue;
    }
    const { module, role, adapter } = found;
    if (!module.startsWith("unet.")) {
      leftOut.add(module);
      continue;
    }
    if (adapter !== undefined) names.add(adapter);
    if (names.size > 1) {
      throw new InputError(
        "adapter-unsupported",
        `${file.describe}: holds several adapters: ${[...names].join(", ")}. Save one of them alone.`,
        { path: file.describe, found: [...names] },
      );
    }
    const keys = modules.get(module) ?? {};
    const other = keys[role];
    if (other !== undefined) {
      throw new InputError(
        "file-malformed",
        `${file.describe}: ${key} and ${other} are the same factor of ${module}. Remove one of them.`,
        { path: file.describe, module, tensors: [other, key] },
      );
    }
    keys[role] = key;
    modules.set(module, keys);
  }
  for (const key of unknown) requireHarmless(file, key, modules);
  return { modules, leftOut, unknown };
}

/** A copy of the layer's own weight, which a PEFT model has beside its factors. */
const BASE_LAYER = /\.base_layer\.\w+$/;

/** An unknown tensor of an adapted layer may change what its factors mean. One elsewhere can only be left out. */
function requireHarmless(file: WeightFile, key: string, modules: KeyGroups["modules"]): void {
  const module = BASE_LAYER.test(key) ? undefined : modulesAbove(key).find((path) => modules.has(path));
  if (module === undefined) return;
  throw new InputError(
    "adapter-unsupported",
    `${file.describe}: ${JSON.stringify(shownKey(key))} belongs to the adapter of ${module}, but is not known, so the layer ` +
      "may have another formula than the known kinds. Save the adapter as plain LoRA.",
    { path: file.describe, tensor: key, module },
  );
}

function notUsable(file: WeightFile, leftOut: ReadonlySet<string>, [first]: readonly string[]): InputError {
  const path = file.describe;
  if (leftOut.size > 0) {
    const models = modelsOf(leftOut);
    return new InputError(
      "adapter-unsupported",
      `${path}: adapts only the ${models.join(" and the ")}, but only adapters of the U-Net are supported.`,
      { path, found: models, expected: "unet" },
    );
  }
  if (first === undefined) {
    return new InputError("tensor-missing", `${path}: is not an adapter: it has no tensors.`, { path });
  }
  const tensor = shownKey(first);
  return new InputError(
    "adapter-unsupported",
    `${path}: ${JSON.stringify(tensor)} is not a known key of a LoRA adapter; expected PEFT's names ` +
      "(unet.….to_q.lora_A.weight, .lora_B.weight) or kohya's (lora_unet_…_to_q.lora_down.weight, .lora_up.weight, .alpha).",
    { path, tensor },
  );
}

function modelsOf(modules: ReadonlySet<string>): string[] {
  return [...new Set([...modules].map((module) => module.slice(0, module.indexOf("."))))];
}

const MOST_SHOWN = 5;

/** One warning about all that is left out. */
function warnOfRest(
  file: WeightFile,
  { leftOut, unknown, warn }: Omit<KeyGroups, "modules"> & { readonly warn: (message: string) => void },
): void {
  const parts: string[] = [];
  if (leftOut.size > 0) parts.push(`${leftOut.size} layers of the ${modelsOf(leftOut).join(" and the ")}`);
  if (unknown.length > 0) {
    const shown = unknown.slice(0, MOST_SHOWN).map((key) => JSON.stringify(shownKey(key)));
    const more = unknown.length > MOST_SHOWN ? ", …" : "";
    parts.push(
      `${unknown.length} tensor${unknown.length > 1 ? "s" : ""} with unknown names (${shown.join(", ")}${more})`,
    );
  }
  if (parts.length === 0) return;
  warn(
    `${file.describe}: ${parts.join(" and ")} are left out. ` +
      "Only the adapted layers of the U-Net are used, so images may differ from those of other tools",
  );
}

/**
 * PEFT's config of the adapter. Newer diffusers writes it to the header, PEFT itself to a file beside the weights. That file
 * also belongs to weights of another name, if they are the only adapter of the folder.
 */
async function configBeside(
  file: WeightFile,
  { isOnlyAdapter }: { readonly isOnlyAdapter: boolean },
): Promise<AdapterConfig | undefined> {
  const header = file.metadata?.lora_adapter_metadata;
  if (header !== undefined) {
    const part = "header: lora_adapter_metadata";
    const config = parseJson(header, `${file.describe}: ${part}`) ?? {};
    return readAdapterConfig(config, { path: file.describe, part }, "unet.");
  }
  const path = join(dirname(file.describe), PEFT_CONFIG);
  const name = basename(file.describe);
  const isPeft = PEFT_WEIGHTS.includes(name) || (isOnlyAdapter && !DIFFUSERS_WEIGHTS.includes(name));
  if (!isPeft || !(await exists(path))) return undefined;
  return readAdapterConfig(parseJson(await readText(path, 1 << 20), path), { path });
}
