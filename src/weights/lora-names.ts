/**
 * The names that different tools give to the tensors of a LoRA adapter. In this project a module is named by its path
 * in a diffusers pipeline, such as `unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0`.
 */
import { InputError } from "../errors/index.js";

export type LoraRole = "down" | "up" | "alpha";

export interface LoraKey {
  readonly module: string;
  readonly role: LoraRole;
}

/** PEFT and current diffusers; kohya's sd-scripts; diffusers before 0.20, with the factors in attention processors. */
const FORMS: readonly RegExp[] = [
  /^(?<name>.+)\.lora_(?<factor>A|B)(?:\.default)?\.weight$/,
  /^(?<name>.+)\.lora_(?<factor>down|up)\.weight$/,
  /^(?<name>.+?)(?:\.lora|\.lora_linear_layer|_lora)\.(?<factor>down|up)\.weight$/,
  /^(?<name>.+?)(?:_lora)?\.(?<factor>alpha)$/,
];

const ROLES: Readonly<Record<string, LoraRole>> = { A: "down", B: "up", down: "down", up: "up", alpha: "alpha" };

/** Variants of LoRA, by a part of their keys. Their formulas differ: read as LoRA, they would give other images. */
const VARIANTS: readonly (readonly [RegExp, string])[] = [
  [/\.(dora_scale|lora_magnitude_vector)\b/, "DoRA"],
  [/\.hada_/, "LoHa"],
  [/\.lokr_/, "LoKr"],
  [/\.(oft_|lora_mid\.)/, "LyCORIS"],
  [/\.(diff|diff_b|w_norm|b_norm)$/, "weight differences beside LoRA"],
  [/\.(on_input|ia3_l)$/, "IA3"],
  [/\.lora_(A|B|up|down)\b.*\.bias$/, "LoRA with a bias"],
];

/** Far above any real key. It bounds the time and the message that a hostile key can cost. */
const MAX_KEY_LENGTH = 300;

/**
 * The module and the role of the tensor named `key`.
 *
 * @param path the file, for error messages
 * @throws InputError `adapter-unsupported` when the name is not that of a LoRA tensor
 */
export function loraKey(key: string, path: string): LoraKey {
  const tooLong = key.length > MAX_KEY_LENGTH;
  const tensor = tooLong ? `${key.slice(0, MAX_KEY_LENGTH)}…` : key;
  const variant = tooLong ? undefined : VARIANTS.find(([pattern]) => pattern.test(key));
  if (variant) {
    throw new InputError(
      "adapter-unsupported",
      `${path}: ${JSON.stringify(tensor)} belongs to ${variant[1]}, but only plain LoRA is supported. ` +
        "Look for a plain LoRA or a merged model by the same author.",
      { path, tensor, found: variant[1], expected: "LoRA" },
    );
  }
  for (const form of tooLong ? [] : FORMS) {
    const { name, factor } = form.exec(key)?.groups ?? {};
    const module = name && modulePath(name);
    if (module) return { module, role: ROLES[factor as string] as LoraRole };
  }
  throw new InputError(
    "adapter-unsupported",
    `${path}: ${JSON.stringify(tensor)} is not a known key of a LoRA adapter; expected PEFT's names ` +
      "(unet.….to_q.lora_A.weight, .lora_B.weight) or kohya's (lora_unet_…_to_q.lora_down.weight, .lora_up.weight, .alpha).",
    { path, tensor },
  );
}

const PATH = /^(unet|text_encoder|text_encoder_2)(\.\w+)+$/;

/** The children of the U-Net. They begin the keys of a file that PEFT or `save_attn_procs` wrote for it alone. */
const UNET_CHILD = /^(conv_in|time_embedding|add_embedding|down_blocks|mid_block|up_blocks|conv_out)(\.|$)/;

function modulePath(name: string): string | undefined {
  const plain = name
    .replace(/^base_model\.model\./, "")
    .replace(".processor.", ".")
    .replace(/\.to_out$/, ".to_out.0");
  const rooted = UNET_CHILD.test(plain) ? `unet.${plain}` : plain;
  return PATH.test(rooted) ? rooted : modulePathOfKohya(name);
}

const KOHYA_ROOTS: readonly (readonly [kohya: string, diffusers: string])[] = [
  ["lora_unet_", "unet."],
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
  if (words.length === 0) return undefined;
  return root[1] + (fromOriginal(words) ?? words).join(".");
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
