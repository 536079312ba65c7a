/**
 * The names that different tools give to the tensors of a LoRA adapter. In this project a module is named by its path
 * in a diffusers pipeline, such as `unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0`.
 */
import { InputError } from "../errors/index.js";

/**
 * The part that a tensor has in the change of a layer: LoRA's; a further factor of older LyCORIS (`use_scalar`), and its
 * middle factor of a convolution; the magnitudes of DoRA; LoHa's; LoKr's. `lora-variants.ts` has their formulas.
 */
export type AdapterRole =
  | ("down" | "up" | "alpha" | "scalar" | "mid" | "magnitude")
  | ("hada_w1_a" | "hada_w1_b" | "hada_w2_a" | "hada_w2_b" | "hada_t1" | "hada_t2")
  | ("lokr_w1" | "lokr_w1_a" | "lokr_w1_b" | "lokr_w2" | "lokr_w2_a" | "lokr_w2_b" | "lokr_t2");

export interface AdapterKey {
  readonly module: string;
  readonly role: AdapterRole;
  /** The name that PEFT gives to one of several adapters of a model: `lora_A.mine.weight`. */
  readonly adapter?: string;
}

/**
 * PEFT and current diffusers; kohya's sd-scripts; diffusers before 0.20, with the factors in attention processors; DoRA of
 * PEFT and of LyCORIS; LoHa and LoKr of both.
 */
const FORMS: readonly RegExp[] = [
  /^(?<name>.+)\.lora_(?<factor>A|B)(?:\.(?<adapter>\w+))?\.weight$/,
  /^(?<name>.+)\.lora_(?<factor>down|up|mid)\.weight$/,
  /^(?<name>.+?)(?:\.lora|\.lora_linear_layer|_lora)\.(?<factor>down|up)\.weight$/,
  /^(?<name>.+?)(?:_lora)?\.(?<factor>alpha)$/,
  /^(?<name>.+)\.(?<factor>lora_magnitude_vector)(?:\.(?<adapter>(?!weight$)\w+))?(?:\.weight)?$/,
  /^(?<name>.+)\.(?<factor>dora_scale|scalar)$/,
  /^(?<name>.+)\.(?<factor>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))(?:\.(?<adapter>\w+))?$/,
];

/** The roles that files call something else. */
const ROLES: Readonly<Record<string, AdapterRole>> = {
  A: "down",
  B: "up",
  lora_magnitude_vector: "magnitude",
  dora_scale: "magnitude",
};

/** Further changes of a layer, by a part of their keys. Without them, the images would be others. */
const UNSUPPORTED: readonly (readonly [RegExp, string])[] = [
  [/\.(oft_\w+|oft_blocks|boft_\w+)\b/, "OFT or BOFT"],
  [/\.(diff|diff_b|w_norm|b_norm)$/, "weight differences beside LoRA"],
  [/\.(on_input|ia3_l)(\.\w+)?$/, "IA3"],
  [/\.(a1|a2|b1|b2)\.weight$/, "GLoRA"],
  [/\.vera_lambda_[bd]\b/, "VeRA"],
  [/\.lora_(A|B|up|down)\b.*\.bias$/, "LoRA with a bias"],
  [/\.lora_embedding_[AB]\b/, "LoRA of an embedding"],
];

/** Far above any real key. It bounds the time and the message that a hostile key can cost. */
const MAX_KEY_LENGTH = 300;

/** The key as messages show it. */
export function shownKey(key: string): string {
  return key.length > MAX_KEY_LENGTH ? `${key.slice(0, MAX_KEY_LENGTH)}…` : key;
}

/**
 * The module and the role of the tensor named `key`; undefined if no adapter that is known here has such a name.
 *
 * @param path the file, for error messages
 * @throws InputError `adapter-unsupported` when it belongs to a kind of adapter that is known but not supported
 */
export function adapterKey(key: string, path: string): AdapterKey | undefined {
  if (key.length > MAX_KEY_LENGTH) return undefined;
  const other = UNSUPPORTED.find(([pattern]) => pattern.test(key));
  if (other) {
    throw new InputError(
      "adapter-unsupported",
      `${path}: ${JSON.stringify(key)} belongs to ${other[1]}; supported are LoRA, DoRA, LoHa and LoKr. ` +
        "Look for such an adapter or a merged model by the same author.",
      { path, tensor: key, found: other[1], expected: ["LoRA", "DoRA", "LoHa", "LoKr"] },
    );
  }
  for (const form of FORMS) {
    const { name, factor, adapter } = form.exec(key)?.groups ?? {};
    const module = name && modulePath(name);
    if (!module || factor === undefined) continue;
    return { module, role: ROLES[factor] ?? (factor as AdapterRole), ...(adapter !== undefined && { adapter }) };
  }
  return undefined;
}

/** The layer that an unknown tensor seems to belong to, by the beginning of its name. */
export function modulesAbove(key: string): string[] {
  if (key.length > MAX_KEY_LENGTH) return [];
  const parts = key.split(".");
  const cuts = Array.from({ length: Math.max(0, parts.length - 1) }, (_, i) => parts.slice(0, i + 1).join("."));
  return cuts.flatMap((name) => modulePath(name) ?? []);
}

const PATH = /^(unet|text_encoder|text_encoder_2)(\.\w+)+$/;

/** The children of the U-Net. They begin the keys of a file that PEFT or `save_attn_procs` wrote for it alone. */
const UNET_CHILD = /^(conv_in|time_embedding|add_embedding|down_blocks|mid_block|up_blocks|conv_out)(\.|$)/;

/** Names of ComfyUI for the U-Net in the original layout, and for CLIP's text encoders. */
const COMFY_UNET = /^(?:model\.)?diffusion_model\./;
const COMFY_TEXT = /^(?:text_encoders\.)?clip_(l|g)\.(?:transformer\.)?/;

function modulePath(name: string): string | undefined {
  const plain = name
    .replace(/^base_model\.model\./, "")
    .replace(".processor.", ".")
    .replace(/\.to_out$/, ".to_out.0")
    .replace(COMFY_TEXT, (_, which) => (which === "l" ? "text_encoder." : "text_encoder_2."));
  const original = fromOriginal(plain.replace(COMFY_UNET, "").split("."));
  if (original) return `unet.${original.join(".")}`;
  const rooted = UNET_CHILD.test(plain) ? `unet.${plain}` : plain;
  if (!PATH.test(rooted)) return modulePathOfKohya(name);
  return rooted.startsWith("unet.") && !UNET_CHILD.test(rooted.slice("unet.".length)) ? undefined : rooted;
}

const KOHYA_ROOTS: readonly (readonly [kohya: string, diffusers: string])[] = [
  ["lora_unet_", "unet."],
  // LyCORIS, if it wraps the U-Net alone.
  ["lycoris_", "unet."],
  ["lora_te_", "text_encoder."],
  ["lora_te1_", "text_encoder."],
  ["lora_te2_", "text_encoder_2."],
];

/** The name in kohya's sd-scripts, where dots become underscores: `unet.conv_in` → `lora_unet_conv_in`. */
export function kohyaName(modulePath: string): string {
  for (const [kohya, diffusers] of KOHYA_ROOTS) {
    if (modulePath.startsWith(diffusers)) return kohya + modulePath.slice(diffusers.length).replaceAll(".", "_");
  }
  throw new RangeError(
    `kohyaName: ${modulePath} is not in a model that kohya names (unet, text_encoder, text_encoder_2)`,
  );
}

/** Module names with underscores, in the U-Net (of diffusers and the original code) and in CLIP's text model. */
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
  "input_blocks",
  "middle_block",
  "output_blocks",
  "in_layers",
  "out_layers",
  "emb_layers",
  "skip_connection",
  "time_embed",
  "label_emb",
  "text_model",
  "text_projection",
  "self_attn",
  "q_proj",
  "k_proj",
  "v_proj",
  "out_proj",
];
const WORD = new RegExp(`(${NAMES_WITH_UNDERSCORES.join("|")}|[^_.]+)(?:_(?=.)|$)`, "y");

/** The inverse of `kohyaName`. It also reads the names of the original layout; undefined if the name is not kohya's. */
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
  const path = (fromOriginal(words) ?? words).join(".");
  if (path === "" || (root[1] === "unet." && !UNET_CHILD.test(path))) return undefined;
  return root[1] + path;
}

/** The layers of a residual block of the original U-Net, which are numbered, and their names in diffusers. */
const RESNET_LAYERS: Readonly<Record<string, string>> = {
  "in_layers.2": "conv1",
  "out_layers.3": "conv2",
  "emb_layers.1": "time_emb_proj",
  skip_connection: "conv_shortcut",
};

/** The layers outside the blocks. */
const OUTER_LAYERS: Readonly<Record<string, readonly string[]>> = {
  "input_blocks.0.0": ["conv_in"],
  "out.2": ["conv_out"],
  "time_embed.0": ["time_embedding", "linear_1"],
  "time_embed.2": ["time_embedding", "linear_2"],
  "label_emb.0.0": ["add_embedding", "linear_1"],
  "label_emb.0.2": ["add_embedding", "linear_2"],
};

/**
 * Translates a path in the original U-Net (Rombach et al.), which sd-scripts uses for SDXL, to a path in diffusers. The
 * original has one list of input blocks and one of output blocks. In Stable Diffusion 1, 2 and XL, three blocks of a
 * list make one level of diffusers.
 */
function fromOriginal(words: readonly string[]): readonly string[] | undefined {
  const outer = OUTER_LAYERS[words.join(".")];
  if (outer) return outer;
  const [list, index = "", ...rest] = words;
  if (list === "middle_block") {
    const mid: Readonly<Record<string, readonly string[]>> = {
      "0": ["resnets", "0"],
      "1": ["attentions", "0"],
      "2": ["resnets", "1"],
    };
    const module = mid[index];
    return module && ["mid_block", ...module, ...(RESNET_LAYERS[rest.join(".")]?.split(".") ?? rest)];
  }
  if (list !== "input_blocks" && list !== "output_blocks") return undefined;
  const [part, ...layer] = rest;
  // The first of input_blocks is conv_in.
  const number = Number(index) - (list === "input_blocks" ? 1 : 0);
  const level = [list === "input_blocks" ? "down_blocks" : "up_blocks", String(Math.floor(number / 3))];
  const resnet = RESNET_LAYERS[layer.join(".")];
  if (resnet) return [...level, "resnets", String(number % 3), resnet];
  if (layer[0] === "op") return [...level, "downsamplers", "0", "conv"];
  if (layer[0] === "conv") return [...level, "upsamplers", "0", "conv"];
  return part === "1" ? [...level, "attentions", String(number % 3), ...layer] : undefined;
}
