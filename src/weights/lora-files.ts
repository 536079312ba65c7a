import { stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { InputError } from "../errors/index.js";
import { writeFileAtomic } from "../io/atomic.js";
import { exists, readText } from "../io/files.js";
import { parseJson } from "../io/json.js";
import { isFloating } from "../tensor/dtype.js";
import { float32, fromNumbers, type HostTensor, toFloat32, toNumbers } from "../tensor/host.js";
import { showShape } from "../tensor/shape.js";
import { type AlphaOf, alphasOfConfig } from "./lora-config.js";
import { kohyaName, type LoraRole, loraKey } from "./lora-names.js";
import { openSafetensors, type SafetensorsFile, safetensorsChunks } from "./safetensors.js";
import { readTensor } from "./source.js";

/** The low-rank update of one layer: ΔW = (alpha / r) · up · down (Hu et al. 2021, section 4.1). */
export interface LoraModule {
  /** [r, in], of a convolution [r, in, kh, kw]. */
  readonly down: HostTensor;
  /** [out, r], of a convolution [out, r, 1, 1]. */
  readonly up: HostTensor;
  /** Missing means r, hence a scale of 1. */
  readonly alpha?: number;
}

/** By module path, such as `unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0`. */
export type LoraAdapter = ReadonlyMap<string, LoraModule>;

/** The name under which diffusers' `load_lora_weights` finds an adapter in a folder. */
export const PEFT_FILE = "pytorch_lora_weights.safetensors";

/** What PEFT's own `save_pretrained` writes. */
const PEFT_MODEL = { weights: "adapter_model.safetensors", config: "adapter_config.json" };

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
 * carries its alpha. diffusers gives each attention layer of such a file the commonest alpha, so where modules differ, all
 * get that one and what is left of their scale is multiplied into `up`: the same ΔW everywhere.
 */
export function kohyaLora(adapter: LoraAdapter, metadata: Readonly<Record<string, string>> = {}): Uint8Array[] {
  const tensors = new Map<string, HostTensor>();
  const modules = [...adapter.values()];
  const alpha = commonest(modules.map(alphaOf));
  for (const [modulePath, module] of adapter) {
    const name = kohyaName(modulePath);
    tensors.set(`${name}.lora_down.weight`, module.down);
    tensors.set(`${name}.lora_up.weight`, scaled(module.up, alphaOf(module) / alpha));
    tensors.set(`${name}.alpha`, float32(Float32Array.of(alpha), []));
  }
  return safetensorsChunks(tensors, { ...kohyaMetadata(modules, alpha), ...metadata });
}

export async function writeKohyaLora(
  path: string,
  adapter: LoraAdapter,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  await writeFileAtomic(path, kohyaLora(adapter, metadata));
}

const alphaOf = (module: LoraModule) => module.alpha ?? loraRank(module);

/** The first of the values that occur most often, other than 0, which could not be scaled by. */
function commonest(values: readonly number[]): number {
  const counts = new Map<number, number>();
  for (const value of values) if (value !== 0) counts.set(value, (counts.get(value) ?? 0) + 1);
  const most = Math.max(...counts.values());
  return [...counts].find(([, count]) => count === most)?.[0] ?? 1;
}

/** What sd-scripts says of the network itself: dim and alpha of Linear layers and 1x1 convolutions, and those of 3x3 ones. */
function kohyaMetadata(modules: readonly LoraModule[], alpha: number): Record<string, string> {
  const isWide = ({ down }: LoraModule) => down.shape.slice(2).some((extent) => extent > 1);
  const wide = modules.filter(isWide);
  const narrow = modules.filter((module) => !isWide(module));
  const main = narrow.length > 0 ? narrow : wide;
  const conv = { conv_dim: onlyOne(wide.map(loraRank)), conv_alpha: String(alpha) };
  return {
    ss_network_module: "networks.lora",
    ss_network_dim: onlyOne(main.map(loraRank)),
    ss_network_alpha: String(alpha),
    ...(wide.length > 0 && { ss_network_args: JSON.stringify(conv) }),
  };
}

/** sd-scripts writes "Dynamic" where the modules differ. */
function onlyOne(values: readonly number[]): string {
  return new Set(values).size === 1 ? String(values[0]) : "Dynamic";
}

export interface ReadLoraOptions {
  /** Told of what is left out. */
  readonly warn?: (message: string) => void;
}

/**
 * An adapter of the U-Net from a file under any of the names that `lora-names.ts` knows, or from a folder that diffusers' or
 * PEFT's own saving has filled. What such a file holds for the text encoder is left out.
 */
export async function readLora(path: string, { warn = () => {} }: ReadLoraOptions = {}): Promise<LoraAdapter> {
  const file = await openSafetensors(await adapterFile(path));
  const alphas = await alphasBeside(file);
  const { modules, leftOut } = groupKeys(file);
  if (leftOut.size > 0) {
    const parts = [...leftOut].map((module) => module.slice(0, module.indexOf(".")));
    if (modules.size === 0) {
      throw new InputError(
        "adapter-unsupported",
        `${file.describe}: adapts the ${parts[0]} alone; only adapters of the U-Net are supported.`,
      );
    }
    warn(
      `${file.describe}: ${leftOut.size} layers of the ${[...new Set(parts)].join(" and the ")} are left out; ` +
        "only the U-Net's are used, so pictures may differ from those of other tools",
    );
  }
  const adapter = new Map<string, LoraModule>();
  for (const [modulePath, { down, up, alpha }] of modules) {
    const where = `${file.describe}: adapter of ${modulePath}`;
    if (!down || !up) {
      const [half, other] = down ? ["down (lora_A)", "up (lora_B)"] : ["up (lora_B)", "down (lora_A)"];
      throw new InputError(
        "adapter-unsupported",
        `${where}: ${down || up ? `has its ${half} factor but no ${other}` : "has only an alpha"}.`,
      );
    }
    const module = { down: await factor(file, down), up: await factor(file, up) };
    if (module.down.shape[0] !== module.up.shape[1] || module.up.shape.slice(2).some((extent) => extent !== 1)) {
      throw new InputError(
        "adapter-unsupported",
        `${where}: down ${showShape(module.down.shape)} and up ${showShape(module.up.shape)} do not make a low-rank update; ` +
          "expected [r, in] and [out, r], or of a convolution [r, in, kh, kw] and [out, r, 1, 1].",
      );
    }
    const found = alpha ? await readAlpha(file, alpha) : alphas(modulePath, loraRank(module));
    adapter.set(modulePath, found === undefined ? module : { ...module, alpha: found });
  }
  return adapter;
}

async function adapterFile(path: string): Promise<string> {
  const isFolder = await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
  if (!isFolder) return path;
  const own = join(path, PEFT_MODEL.weights);
  return (await exists(own)) ? own : join(path, PEFT_FILE);
}

type ModuleKeys = Partial<Record<LoraRole, string>>;

function groupKeys(file: SafetensorsFile): { modules: Map<string, ModuleKeys>; leftOut: Set<string> } {
  const modules = new Map<string, ModuleKeys>();
  const leftOut = new Set<string>();
  for (const key of file.names()) {
    const { module, role } = loraKey(key, file.describe);
    if (!module.startsWith("unet.")) {
      leftOut.add(module);
      continue;
    }
    const keys = modules.get(module) ?? {};
    const other = keys[role];
    if (other) {
      throw new InputError(
        "adapter-unsupported",
        `${file.describe}: ${key} and ${other} are the same factor of ${module}; keep one.`,
      );
    }
    keys[role] = key;
    modules.set(module, keys);
  }
  if (modules.size + leftOut.size === 0) {
    throw new InputError("adapter-unsupported", `${file.describe}: holds no adapter: it has no tensors.`);
  }
  return { modules, leftOut };
}

async function factor(file: SafetensorsFile, key: string): Promise<HostTensor> {
  const stored = file.get(key);
  const isFactor = stored && [2, 4].includes(stored.shape.length) && !stored.shape.includes(0);
  if (!isFactor || !isFloating(stored.dtype)) {
    throw new InputError(
      "adapter-unsupported",
      `${file.describe}: ${key} is ${stored?.dtype}${showShape(stored?.shape ?? [])}; a factor is a floating point matrix, ` +
        "or for a convolution a tensor with four axes.",
    );
  }
  return readTensor(stored);
}

async function readAlpha(file: SafetensorsFile, key: string): Promise<number> {
  const stored = file.get(key);
  const isScalar = stored && isFloating(stored.dtype) && stored.shape.every((extent) => extent === 1);
  const value = isScalar ? (toFloat32(await readTensor(stored))[0] as number) : Number.NaN;
  if (!Number.isFinite(value))
    throw new InputError("adapter-unsupported", `${file.describe}: ${key} is not one finite number.`);
  return value;
}

/** Newer diffusers puts PEFT's LoraConfig into the header, PEFT itself into a file beside the weights. */
async function alphasBeside(file: SafetensorsFile): Promise<AlphaOf> {
  const header = file.metadata.lora_adapter_metadata;
  if (header !== undefined) {
    const where = `${file.describe}: header: lora_adapter_metadata`;
    const alphas = alphasOfConfig(parseJson(header, where) ?? {}, where, "unet.");
    return (module, rank) => alphas(module.slice("unet.".length), rank);
  }
  const path = join(dirname(file.describe), PEFT_MODEL.config);
  if (basename(file.describe) !== PEFT_MODEL.weights || !(await exists(path))) return () => undefined;
  return alphasOfConfig(parseJson(await readText(path, 1 << 20), path), path);
}
