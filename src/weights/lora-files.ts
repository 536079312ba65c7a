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

/** The low-rank change of one layer's weight: ΔW = (alpha / r) · up · down (Hu et al. 2021, section 4.1). */
export interface LoraModule {
  /** [r, in], or [r, in, kh, kw] for a convolution. */
  readonly down: HostTensor;
  /** [out, r], or [out, r, 1, 1] for a convolution. */
  readonly up: HostTensor;
  /** Default: r, which makes the scale 1. */
  readonly alpha?: number;
}

/** The modules by path, such as `unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0`. */
export type LoraAdapter = ReadonlyMap<string, LoraModule>;

/** The file in which the `load_lora_weights` of diffusers finds an adapter in a folder. */
export const PEFT_FILE = "pytorch_lora_weights.safetensors";

/** The files that PEFT's own `save_pretrained` writes. */
const PEFT_MODEL = { weights: "adapter_model.safetensors", config: "adapter_config.json" };

export function loraRank({ down }: LoraModule): number {
  return down.shape[0] as number;
}

export function loraScale(module: LoraModule): number {
  return (module.alpha ?? loraRank(module)) / loraRank(module);
}

/**
 * The content of a file with PEFT's names, as diffusers writes it. Not every reader of such a file honors an alpha, so
 * a scale other than 1 is multiplied into `up`. All readers then get the same ΔW, and reading the file back gives no
 * alpha.
 */
export function peftLora(adapter: LoraAdapter): Uint8Array[] {
  const tensors = new Map<string, HostTensor>();
  for (const [modulePath, module] of adapter) {
    tensors.set(`${modulePath}.lora_A.weight`, module.down);
    tensors.set(`${modulePath}.lora_B.weight`, scaled(module.up, loraScale(module)));
  }
  return safetensorsChunks(tensors, { format: "pt" });
}

/**
 * Writes an adapter as a file that diffusers loads: `pipe.load_lora_weights(folder)`, if its name is
 * `pytorch_lora_weights.safetensors`. A scale other than 1 is multiplied into the weights.
 *
 * @throws InputError `output-unwritable` if the file system refuses
 * @example
 * await writePeftLora("pytorch_lora_weights.safetensors", await loadAdapter("runs/default-1"));
 */
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
 * The content of a file with the names of kohya's sd-scripts, the only ones that ComfyUI and A1111 read. Every module
 * has an alpha. diffusers applies the most common alpha of such a file to all attention layers, so if modules differ,
 * all get that alpha, and the rest of their scale is multiplied into `up`. All readers then get the same ΔW.
 */
export function kohyaLora(adapter: LoraAdapter, metadata: Readonly<Record<string, string>> = {}): Uint8Array[] {
  const tensors = new Map<string, HostTensor>();
  const modules = [...adapter.values()];
  const alpha = mostCommon(modules.map(alphaOf));
  for (const [modulePath, module] of adapter) {
    const name = kohyaName(modulePath);
    tensors.set(`${name}.lora_down.weight`, module.down);
    tensors.set(`${name}.lora_up.weight`, scaled(module.up, alphaOf(module) / alpha));
    tensors.set(`${name}.alpha`, float32(Float32Array.of(alpha), []));
  }
  return safetensorsChunks(tensors, { ...kohyaMetadata(modules, alpha), ...metadata });
}

/**
 * Writes an adapter as a file with the names of kohya's sd-scripts, which ComfyUI and A1111 load.
 *
 * @param metadata entries of the safetensors header besides those of sd-scripts
 * @throws InputError `output-unwritable` if the file system refuses
 * @example
 * await writeKohyaLora("vivid.kohya.safetensors", await loadAdapter("runs/default-1"));
 */
export async function writeKohyaLora(
  path: string,
  adapter: LoraAdapter,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  await writeFileAtomic(path, kohyaLora(adapter, metadata));
}

const alphaOf = (module: LoraModule) => module.alpha ?? loraRank(module);

/** The first of the most common values. 0 does not count, because scales are divided by the result. */
function mostCommon(values: readonly number[]): number {
  const counts = new Map<number, number>();
  for (const value of values) if (value !== 0) counts.set(value, (counts.get(value) ?? 0) + 1);
  const most = Math.max(...counts.values());
  return [...counts].find(([, count]) => count === most)?.[0] ?? 1;
}

/**
 * The metadata of sd-scripts: the dim and alpha of Linear layers and 1x1 convolutions, and those of 3x3 convolutions.
 */
function kohyaMetadata(modules: readonly LoraModule[], alpha: number): Record<string, string> {
  const isWide = ({ down }: LoraModule) => down.shape.slice(2).some((extent) => extent > 1);
  const wide = modules.filter(isWide);
  const narrow = modules.filter((module) => !isWide(module));
  const main = narrow.length > 0 ? narrow : wide;
  const conv = { conv_dim: singleOrDynamic(wide.map(loraRank)), conv_alpha: String(alpha) };
  return {
    ss_network_module: "networks.lora",
    ss_network_dim: singleOrDynamic(main.map(loraRank)),
    ss_network_alpha: String(alpha),
    ...(wide.length > 0 && { ss_network_args: JSON.stringify(conv) }),
  };
}

/** sd-scripts writes "Dynamic" when the modules differ. */
function singleOrDynamic(values: readonly number[]): string {
  return new Set(values).size === 1 ? String(values[0]) : "Dynamic";
}

export interface ReadLoraOptions {
  /** Receives a message about the layers that are left out. */
  readonly warn?: (message: string) => void;
}

/**
 * Reads an adapter of the U-Net from a file with any of the names that `lora-names.ts` knows, or from a folder that
 * diffusers or PEFT saved. Layers of the text encoder are left out. `loadAdapter` also takes a run folder.
 *
 * @example
 * const adapter = await readLora("pytorch_lora_weights.safetensors");
 *
 * @throws InputError when the file is damaged, is not a LoRA adapter, or adapts only the text encoder
 */
export async function readLora(path: string, { warn = () => {} }: ReadLoraOptions = {}): Promise<LoraAdapter> {
  const file = await openSafetensors(await adapterFile(path));
  const alphas = await alphasBeside(file);
  const { modules, leftOut } = groupKeys(file);
  if (leftOut.size > 0) {
    const models = [...new Set([...leftOut].map((module) => module.slice(0, module.indexOf("."))))];
    if (modules.size === 0) {
      throw new InputError(
        "adapter-unsupported",
        `${file.describe}: adapts only the ${models.join(" and the ")}, but only adapters of the U-Net are supported.`,
        { path: file.describe, found: models, expected: "unet" },
      );
    }
    warn(
      `${file.describe}: ${leftOut.size} layers of the ${models.join(" and the ")} are left out. ` +
        "Only those of the U-Net are used, so images may differ from those of other tools",
    );
  }
  const adapter = new Map<string, LoraModule>();
  for (const [modulePath, { down, up, alpha }] of modules) {
    const where = `${file.describe}: adapter of ${modulePath}`;
    if (!down || !up) {
      const missing = [...(down ? [] : ["down"]), ...(up ? [] : ["up"])];
      const shown = missing.map((role) => (role === "down" ? "down (lora_A)" : "up (lora_B)")).join(" and its ");
      throw new InputError(
        "tensor-missing",
        `${where}: lacks its ${shown} factor${missing.length > 1 ? "s" : ""}. Download the file again.`,
        { path: file.describe, module: modulePath, missing },
      );
    }
    const module = { down: await readFactor(file, down), up: await readFactor(file, up) };
    if (module.down.shape[0] !== module.up.shape[1] || module.up.shape.slice(2).some((extent) => extent !== 1)) {
      throw new InputError(
        "tensor-mismatch",
        `${where}: down ${showShape(module.down.shape)} and up ${showShape(module.up.shape)} do not make a low-rank change; ` +
          "expected [r, in] and [out, r], or for a convolution [r, in, kh, kw] and [out, r, 1, 1].",
        { path: file.describe, module: modulePath, down: module.down.shape, up: module.up.shape },
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
        "file-malformed",
        `${file.describe}: ${key} and ${other} are the same factor of ${module}. Remove one of them.`,
        { path: file.describe, module, tensors: [other, key] },
      );
    }
    keys[role] = key;
    modules.set(module, keys);
  }
  if (modules.size + leftOut.size === 0) {
    throw new InputError("tensor-missing", `${file.describe}: is not an adapter: it has no tensors.`, {
      path: file.describe,
    });
  }
  return { modules, leftOut };
}

async function readFactor(file: SafetensorsFile, key: string): Promise<HostTensor> {
  const stored = file.get(key);
  const isFactor = stored && [2, 4].includes(stored.shape.length) && !stored.shape.includes(0);
  if (!isFactor || !isFloating(stored.dtype)) {
    throw new InputError(
      "tensor-mismatch",
      `${file.describe}: ${key} is ${stored?.dtype}${showShape(stored?.shape ?? [])}, but a factor is a floating-point ` +
        "matrix or, for a convolution, a floating-point tensor with four axes.",
      { path: file.describe, tensor: key, dtype: stored?.dtype, shape: stored?.shape },
    );
  }
  return readTensor(stored);
}

async function readAlpha(file: SafetensorsFile, key: string): Promise<number> {
  const stored = file.get(key);
  const isScalar = stored && isFloating(stored.dtype) && stored.shape.every((extent) => extent === 1);
  const value = isScalar ? (toFloat32(await readTensor(stored))[0] as number) : Number.NaN;
  if (Number.isFinite(value)) return value;
  throw new InputError("tensor-mismatch", `${file.describe}: ${key} is not one finite number.`, {
    path: file.describe,
    tensor: key,
    shape: stored?.shape,
    expected: "one finite number",
  });
}

/**
 * The alphas of PEFT's LoraConfig. Newer diffusers writes it to the header, PEFT itself to a file beside the weights.
 */
async function alphasBeside(file: SafetensorsFile): Promise<AlphaOf> {
  const header = file.metadata.lora_adapter_metadata;
  if (header !== undefined) {
    const part = "header: lora_adapter_metadata";
    const config = parseJson(header, `${file.describe}: ${part}`) ?? {};
    const alphas = alphasOfConfig(config, { path: file.describe, part }, "unet.");
    return (module, rank) => alphas(module.slice("unet.".length), rank);
  }
  const path = join(dirname(file.describe), PEFT_MODEL.config);
  if (basename(file.describe) !== PEFT_MODEL.weights || !(await exists(path))) return () => undefined;
  return alphasOfConfig(parseJson(await readText(path, 1 << 20), path), { path });
}
