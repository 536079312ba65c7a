import { stat } from "node:fs/promises";
import { join } from "node:path";
import { isFloating } from "../tensor/dtype.js";
import { InputError } from "../tensor/errors.js";
import { float32, fromNumbers, type HostTensor, toFloat32, toNumbers } from "../tensor/host.js";
import { showShape } from "../tensor/shape.js";
import { writeFileAtomic } from "./atomic.js";
import { parseJson } from "./json.js";
import { openSafetensors, type SafetensorsFile, safetensorsChunks } from "./safetensors.js";
import { readTensor } from "./source.js";

/** The low-rank update of one Linear: ΔW = (alpha / r) · up · down (Hu et al. 2021, section 4.1). */
export interface LoraModule {
  /** [r, in] */
  readonly down: HostTensor;
  /** [out, r] */
  readonly up: HostTensor;
  /** Missing means r, hence a scale of 1. */
  readonly alpha?: number;
}

/** By module path, such as `unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0`. */
export type LoraAdapter = ReadonlyMap<string, LoraModule>;

/** The name under which diffusers' `load_lora_weights` finds an adapter in a folder. */
export const PEFT_FILE = "pytorch_lora_weights.safetensors";

export function loraRank({ down }: LoraModule): number {
  return down.shape[0] as number;
}

export function loraScale(module: LoraModule): number {
  return (module.alpha ?? loraRank(module)) / loraRank(module);
}

/**
 * PEFT's names, as diffusers writes them. Such a file has no place for alpha that every reader honours, so a scale other
 * than 1 is multiplied into `up`: the same ΔW everywhere, and reading it back gives no alpha.
 */
export function peftLora(adapter: LoraAdapter): Uint8Array[] {
  const tensors = new Map<string, HostTensor>();
  for (const [modulePath, module] of adapter) {
    tensors.set(`${modulePath}.lora_A.weight`, module.down);
    tensors.set(`${modulePath}.lora_B.weight`, scaled(module.up, loraScale(module)));
  }
  return safetensorsChunks(tensors, { format: "pt" });
}

export async function writePeftLora(path: string, adapter: LoraAdapter): Promise<void> {
  await writeFileAtomic(path, peftLora(adapter));
}

function scaled(tensor: HostTensor, scale: number): HostTensor {
  if (scale === 1) return tensor;
  return fromNumbers(
    toNumbers(tensor).map((value) => value * scale),
    tensor.shape,
    tensor.dtype,
  );
}

/**
 * The names of kohya's sd-scripts, the only ones that ComfyUI and A1111 know: dots become underscores, and every module
 * carries its alpha.
 */
export function kohyaLora(adapter: LoraAdapter, metadata: Readonly<Record<string, string>> = {}): Uint8Array[] {
  const tensors = new Map<string, HostTensor>();
  for (const [modulePath, module] of adapter) {
    const name = kohyaName(modulePath);
    tensors.set(`${name}.lora_down.weight`, module.down);
    tensors.set(`${name}.lora_up.weight`, module.up);
    tensors.set(`${name}.alpha`, float32(Float32Array.of(module.alpha ?? loraRank(module)), []));
  }
  const modules = [...adapter.values()];
  return safetensorsChunks(tensors, {
    ss_network_module: "networks.lora",
    ss_network_dim: onlyOne(modules.map(loraRank)),
    ss_network_alpha: onlyOne(modules.map((module) => module.alpha ?? loraRank(module))),
    ...metadata,
  });
}

export async function writeKohyaLora(
  path: string,
  adapter: LoraAdapter,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  await writeFileAtomic(path, kohyaLora(adapter, metadata));
}

/** sd-scripts writes "Dynamic" where the modules differ. */
function onlyOne(values: readonly number[]): string {
  return new Set(values).size === 1 ? String(values[0]) : "Dynamic";
}

const KOHYA_ROOTS: readonly (readonly [kohya: string, diffusers: string])[] = [
  ["lora_unet_", "unet."],
  ["lora_te_", "text_encoder."],
  ["lora_te1_", "text_encoder."],
  ["lora_te2_", "text_encoder_2."],
];

export function kohyaName(modulePath: string): string {
  for (const [kohya, diffusers] of KOHYA_ROOTS) {
    if (modulePath.startsWith(diffusers)) return kohya + modulePath.slice(diffusers.length).replaceAll(".", "_");
  }
  throw new RangeError(`kohyaName: ${modulePath} belongs to no part that kohya's names know (unet, text_encoder)`);
}

/** Module names of the U-Net and of CLIP's text model that have underscores of their own. */
const NAMES_WITH_UNDERSCORES = [
  "down_blocks",
  "mid_block",
  "up_blocks",
  "transformer_blocks",
  "conv_in",
  "conv_out",
  "conv_shortcut",
  "time_embedding",
  "time_emb_proj",
  "add_embedding",
  "linear_1",
  "linear_2",
  "proj_in",
  "proj_out",
  "to_q",
  "to_k",
  "to_v",
  "to_out",
  "text_model",
  "text_projection",
  "self_attn",
  "q_proj",
  "k_proj",
  "v_proj",
  "out_proj",
];
const WORD = new RegExp(`(${NAMES_WITH_UNDERSCORES.join("|")}|[^_]+)(?:_(?=.)|$)`, "y");

/** kohyaName's inverse; undefined where the name is none of kohya's. */
export function modulePathOfKohya(name: string): string | undefined {
  const root = KOHYA_ROOTS.find(([kohya]) => name.startsWith(kohya));
  if (!root) return undefined;
  const words: string[] = [];
  WORD.lastIndex = root[0].length;
  while (WORD.lastIndex < name.length) {
    const match = WORD.exec(name);
    if (!match) return undefined;
    words.push(match[1] as string);
  }
  return words.length > 0 ? root[1] + words.join(".") : undefined;
}

/** An adapter from a file with PEFT's or kohya's names, or from a folder with `pytorch_lora_weights.safetensors`. */
export async function readLora(path: string): Promise<LoraAdapter> {
  const isFolder = await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
  const file = await openSafetensors(isFolder ? join(path, PEFT_FILE) : path);
  const keys = groupKeys(file);
  const alphas = alphasOfMetadata(file);
  const adapter = new Map<string, LoraModule>();
  for (const [modulePath, { down, up, alpha }] of keys) {
    const where = `${file.describe}: adapter of ${modulePath}`;
    if (!down || !up) {
      const [half, other] = down ? ["down (lora_A)", "up (lora_B)"] : ["up (lora_B)", "down (lora_A)"];
      throw new InputError(`${where}: ${down || up ? `has its ${half} factor but no ${other}` : "has only an alpha"}.`);
    }
    const module = { down: await factor(file, down), up: await factor(file, up) };
    if (module.down.shape[0] !== module.up.shape[1]) {
      throw new InputError(
        `${where}: down ${showShape(module.down.shape)} and up ${showShape(module.up.shape)} differ in rank; expected [r, in] and [out, r].`,
      );
    }
    const scale = alpha ? await readAlpha(file, alpha) : alphas(modulePath);
    adapter.set(modulePath, scale === undefined ? module : { ...module, alpha: scale });
  }
  return adapter;
}

interface ModuleKeys {
  down?: string;
  up?: string;
  alpha?: string;
}

const SUFFIXES = [
  [".lora_A.weight", "down"],
  [".lora_B.weight", "up"],
  // What diffusers' own training scripts write.
  [".lora.down.weight", "down"],
  [".lora.up.weight", "up"],
  [".lora_down.weight", "down"],
  [".lora_up.weight", "up"],
  [".alpha", "alpha"],
] as const;

const MODULE_PATH = /^(unet|text_encoder|text_encoder_2)(\.\w+)+$/;

function groupKeys(file: SafetensorsFile): Map<string, ModuleKeys> {
  const modules = new Map<string, ModuleKeys>();
  for (const key of file.names()) {
    const suffix = SUFFIXES.find(([ending]) => key.endsWith(ending));
    const name = suffix && key.slice(0, -suffix[0].length);
    const modulePath = name && (MODULE_PATH.test(name) ? name : modulePathOfKohya(name));
    if (!suffix || !modulePath) {
      throw new InputError(
        `${file.describe}: ${JSON.stringify(key)} is no key of a LoRA adapter known here; expected PEFT's names ` +
          "(unet.….to_q.lora_A.weight, .lora_B.weight) or kohya's (lora_unet_…_to_q.lora_down.weight, .lora_up.weight, .alpha).",
      );
    }
    const keys = modules.get(modulePath) ?? {};
    const other = keys[suffix[1]];
    if (other) {
      throw new InputError(`${file.describe}: ${key} and ${other} are the same factor of ${modulePath}; keep one.`);
    }
    keys[suffix[1]] = key;
    modules.set(modulePath, keys);
  }
  if (modules.size === 0) throw new InputError(`${file.describe}: holds no adapter: it has no tensors.`);
  return modules;
}

async function factor(file: SafetensorsFile, key: string): Promise<HostTensor> {
  const stored = file.get(key);
  if (!stored || !isFloating(stored.dtype) || stored.shape.length !== 2 || stored.shape.includes(0)) {
    throw new InputError(
      `${file.describe}: ${key} is ${stored?.dtype}${showShape(stored?.shape ?? [])}; a factor for a Linear layer is a ` +
        "floating point matrix. Adapters of convolutions are not supported.",
    );
  }
  return readTensor(stored);
}

async function readAlpha(file: SafetensorsFile, key: string): Promise<number> {
  const stored = file.get(key);
  const isScalar = stored && isFloating(stored.dtype) && stored.shape.every((extent) => extent === 1);
  const value = isScalar ? (toFloat32(await readTensor(stored))[0] as number) : Number.NaN;
  if (!Number.isFinite(value)) throw new InputError(`${file.describe}: ${key} is not one finite number.`);
  return value;
}

/**
 * Newer diffusers puts PEFT's LoraConfig into the header, as JSON with `unet.lora_alpha` and the like, when an adapter was
 * trained with an alpha; loading it without would give another scale.
 */
function alphasOfMetadata(file: SafetensorsFile): (modulePath: string) => number | undefined {
  const json = file.metadata.lora_adapter_metadata;
  if (json === undefined) return () => undefined;
  const where = `${file.describe}: header: lora_adapter_metadata`;
  const settings = new Map(Object.entries(parseJson(json, where) ?? {}));
  for (const [key, value] of settings) {
    const setting = key.slice(key.lastIndexOf(".") + 1);
    const isPlain = typeof value === "object" ? Object.keys(value ?? {}).length === 0 : value === false;
    if (["use_rslora", "use_dora", "alpha_pattern"].includes(setting) && !isPlain) {
      throw new InputError(`${where}: ${key} is set; only plain LoRA with one alpha for a part is supported.`);
    }
  }
  return (modulePath) => {
    const alpha = settings.get(`${modulePath.slice(0, modulePath.indexOf("."))}.lora_alpha`);
    if (alpha === undefined) return undefined;
    if (typeof alpha !== "number" || !Number.isFinite(alpha))
      throw new InputError(`${where}: lora_alpha is ${JSON.stringify(alpha)}, not a number.`);
    return alpha;
  };
}
