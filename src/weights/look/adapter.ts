/** Describes an adapter: its kind, the tool that wrote it, its layers and the model that it was made for. */
import { InputError } from "../../errors/index.js";
import { type AdapterKey, adapterKey } from "../lora-names.js";
import type { WeightFile } from "../source.js";
import { architectureOf } from "./architecture.js";
import type { Look } from "./kinds.js";

/** Parts of names that only adapters have. */
const MARKS = /(^|[._])(lora_(A|B|down|up|mid)|lora|hada_w1_a|lokr_w[12](_a)?|oft_blocks|ia3_l|dora_scale)\b/;

const TOOLS: readonly (readonly [RegExp, string])[] = [
  [/^lora_(unet|te\d?)_/, "kohya's sd-scripts"],
  [/^lycoris_/, "LyCORIS"],
  [/^(model\.)?diffusion_model\./, "ComfyUI"],
  [/^base_model\.model\./, "PEFT"],
  [/\.processor\./, "diffusers (attention processors)"],
  [/^(unet|text_encoder\w*)\./, "diffusers"],
  [/./, "PEFT, of the U-Net alone"],
];

/** Features of the text that cross-attention reads. */
const BASES: Readonly<Record<number, string>> = {
  768: "Stable Diffusion 1.x",
  1024: "Stable Diffusion 2.x",
  2048: "Stable Diffusion XL",
};

/** Undefined if the file has no tensors of an adapter. */
export function describeAdapter(path: string, file: WeightFile): Look | undefined {
  const names = [...file.names()];
  if (!names.some((name) => MARKS.test(name))) return undefined;
  const found: (AdapterKey & { readonly key: string })[] = [];
  let refused: InputError | undefined;
  for (const key of names) {
    try {
      const parsed = adapterKey(key, path);
      if (parsed) found.push({ ...parsed, key });
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      refused ??= error;
    }
  }
  const inUnet = found.filter(({ module }) => module.startsWith("unet."));
  const architecture = inUnet.length === 0 ? architectureOf(names) : undefined;
  if (architecture !== undefined) {
    return {
      path,
      kind: "adapter",
      what: `an adapter of ${architecture}`,
      details: { architecture, tensors: names.length },
      advice: `${architecture} is not supported. Adapters of Stable Diffusion 1.x, 2.x and XL are.`,
      supported: false,
    };
  }
  const kind = kindOf(inUnet);
  const ranks = [
    ...new Set(inUnet.flatMap(({ role, key }) => (role === "down" ? [file.get(key)?.shape[0] ?? 0] : []))),
  ];
  const layers = new Set(inUnet.map(({ module }) => module)).size;
  const others = new Set(found.filter(({ module }) => !module.startsWith("unet.")).map(({ module }) => module)).size;
  const base = baseOf(file, inUnet);
  const first = (inUnet[0] ?? found[0])?.key ?? (names[0] as string);
  const details = {
    tool: TOOLS.find(([pattern]) => pattern.test(first))?.[1] ?? "unknown",
    layers,
    ...(others > 0 && { layers_of_text_encoders: others }),
    ...(ranks.length > 0 && {
      rank: ranks.length === 1 ? (ranks[0] as number) : ranks.sort((a, b) => a - b).join(", "),
    }),
    ...(base !== undefined && { base }),
  };
  const what = `a ${kind} adapter`;
  if (refused || layers === 0) {
    const advice = refused?.message ?? "It does not change the U-Net. Only adapters of the U-Net are supported.";
    return { path, kind: "adapter", what, details, advice, supported: false };
  }
  return {
    path,
    kind: "adapter",
    what,
    details,
    advice: "Give it with --adapter, and with --model the model that it was made for.",
    command: ["generate", "--adapter", path, "--model", "MODEL", "--prompt", "a cat"],
    supported: true,
  };
}

function kindOf(keys: readonly AdapterKey[]): string {
  const has = (start: string) => keys.some(({ role }) => role.startsWith(start));
  const kind = has("hada_") ? "LoHa" : has("lokr_") ? "LoKr" : has("mid") ? "LoCon" : "LoRA";
  return has("magnitude") ? (kind === "LoRA" ? "DoRA" : `${kind} and DoRA`) : kind;
}

/** The metadata of sd-scripts and of ModelSpec, and otherwise the width of cross-attention. */
function baseOf(file: WeightFile, keys: readonly (AdapterKey & { readonly key: string })[]): string | undefined {
  for (const { module, role, key } of keys) {
    if (!/attn2\.to_[kv]$/.test(module)) continue;
    const shape = file.get(key)?.shape ?? [];
    const features = role === "down" ? shape[1] : role === "hada_w1_b" ? shape[1] : undefined;
    if (features !== undefined) return BASES[features] ?? `a model with ${features} text features`;
  }
  return file.metadata?.["modelspec.architecture"] ?? file.metadata?.ss_base_model_version;
}
