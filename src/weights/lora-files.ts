import { writeFileAtomic } from "../io/atomic.js";
import { float32, fromNumbers, type HostTensor, toNumbers } from "../tensor/host.js";
import { kohyaName } from "./lora-names.js";
import { safetensorsChunks } from "./safetensors.js";

/** The low-rank change of one layer's weight: ΔW = (alpha / r) · up · down (Hu et al. 2021, section 4.1). */
export interface LoraModule {
  /** [r, in], or [r, in, kh, kw] for a convolution. */
  readonly down: HostTensor;
  /** [out, r], or [out, r, 1, 1] for a convolution. */
  readonly up: HostTensor;
  /** Default: r, which makes the scale 1. */
  readonly alpha?: number;
  readonly magnitude?: undefined;
}

/**
 * DoRA (Liu et al. 2024, arXiv 2402.09353): W' = m · (W + ΔW) / ‖W + ΔW‖, with the norm over each output (or each input)
 * feature. Its change of a weight depends on the weight.
 */
export interface DoraModule extends Omit<LoraModule, "magnitude"> {
  readonly magnitude: Magnitude;
}

/** m: one number per output feature, or per input feature, in the order of the weight. */
export interface Magnitude {
  readonly axis: "out" | "in";
  readonly values: HostTensor;
}

/** The modules by path, such as `unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0`. */
export type LoraAdapter = ReadonlyMap<string, LoraModule>;

/** The same, of which some modules may be DoRA. */
export type Adapter = ReadonlyMap<string, LoraModule | DoraModule>;

/** The file in which the `load_lora_weights` of diffusers finds an adapter in a folder. */
export const PEFT_FILE = "pytorch_lora_weights.safetensors";

export function loraRank({ down }: Pick<LoraModule, "down">): number {
  return down.shape[0] as number;
}

export function loraScale(module: Omit<LoraModule, "magnitude">): number {
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
