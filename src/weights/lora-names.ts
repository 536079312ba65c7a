/**
 * What the parts of an adapter are called, by the tools that write them. Here a module has its path in diffusers' pipeline,
 * such as `unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0`.
 */
import { InputError } from "../errors/index.js";

export type LoraRole = "down" | "up" | "alpha";

export interface LoraKey {
  readonly module: string;
  readonly role: LoraRole;
}

/** PEFT and diffusers now; sd-scripts (kohya); diffusers until 0.20, which kept attention's factors in its processor. */
const FORMS: readonly RegExp[] = [
  /^(?<name>.+)\.lora_(?<factor>A|B)(?:\.default)?\.weight$/,
  /^(?<name>.+)\.lora_(?<factor>down|up)\.weight$/,
  /^(?<name>.+?)(?:\.lora|\.lora_linear_layer|_lora)\.(?<factor>down|up)\.weight$/,
  /^(?<name>.+?)(?:_lora)?\.(?<factor>alpha)$/,
];

const ROLES: Readonly<Record<string, LoraRole>> = { A: "down", B: "up", down: "down", up: "up", alpha: "alpha" };

/** Relatives of LoRA by a part of their keys: another formula, so that reading them as LoRA would draw other pictures. */
const RELATIVES: readonly (readonly [RegExp, string])[] = [
  [/\.(dora_scale|lora_magnitude_vector)\b/, "DoRA"],
  [/\.hada_/, "LoHa"],
  [/\.lokr_/, "LoKr"],
  [/\.(oft_|lora_mid\.)/, "LyCORIS"],
  [/\.(diff|diff_b|w_norm|b_norm)$/, "weight differences beside LoRA"],
  [/\.(on_input|ia3_l)$/, "IA3"],
  [/\.lora_(A|B|up|down)\b.*\.bias$/, "LoRA with a bias"],
];

/** Far above any real key; a hostile one should cost neither time nor a screen. */
const LONGEST = 300;

/** The module and factor that a tensor's name stands for; an InputError where it is none of LoRA. */
export function loraKey(key: string, file: string): LoraKey {
  const shown = JSON.stringify(key.length > LONGEST ? `${key.slice(0, LONGEST)}…` : key);
  const relative = RELATIVES.find(([pattern]) => key.length <= LONGEST && pattern.test(key));
  if (relative) {
    throw new InputError(
      "adapter-unsupported",
      `${file}: ${shown} belongs to ${relative[1]}, which is not supported; plain LoRA is. Does its maker offer one, or a merged model?`,
    );
  }
  for (const form of key.length > LONGEST ? [] : FORMS) {
    const { name, factor } = form.exec(key)?.groups ?? {};
    const module = name && modulePath(name);
    if (module) return { module, role: ROLES[factor as string] as LoraRole };
  }
  throw new InputError(
    "adapter-unsupported",
    `${file}: ${shown} is no key of a LoRA adapter known here; expected PEFT's names ` +
      "(unet.….to_q.lora_A.weight, .lora_B.weight) or kohya's (lora_unet_…_to_q.lora_down.weight, .lora_up.weight, .alpha).",
  );
}

const PATH = /^(unet|text_encoder|text_encoder_2)(\.\w+)+$/;

/** The U-Net's own children: files that PEFT or `save_attn_procs` wrote of the U-Net alone begin with them. */
const OF_UNET = /^(conv_in|time_embedding|add_embedding|down_blocks|mid_block|up_blocks|conv_out)(\.|$)/;

function modulePath(name: string): string | undefined {
  const plain = name
    .replace(/^base_model\.model\./, "")
    .replace(".processor.", ".")
    .replace(/\.to_out$/, ".to_out.0");
  const rooted = OF_UNET.test(plain) ? `unet.${plain}` : plain;
  return PATH.test(rooted) ? rooted : modulePathOfKohya(name);
}

const KOHYA_ROOTS: readonly (readonly [kohya: string, diffusers: string])[] = [
  ["lora_unet_", "unet."],
  ["lora_te_", "text_encoder."],
  ["lora_te1_", "text_encoder."],
  ["lora_te2_", "text_encoder_2."],
];

/** Dots become underscores. */
export function kohyaName(modulePath: string): string {
  for (const [kohya, diffusers] of KOHYA_ROOTS) {
    if (modulePath.startsWith(diffusers)) return kohya + modulePath.slice(diffusers.length).replaceAll(".", "_");
  }
  throw new RangeError(`kohyaName: ${modulePath} belongs to no part that kohya's names know (unet, text_encoder)`);
}

/** Module names of the U-Net (diffusers' and the original ones) and of CLIP's text model that have underscores of their own. */
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

/** kohyaName's inverse, also from the original layout's names; undefined where the name is none of kohya's. */
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

/** Of the original U-Net's residual block, whose layers have numbers, in diffusers' names. */
const RESNET: Readonly<Record<string, string>> = {
  "in_layers.2": "conv1",
  "out_layers.3": "conv2",
  "emb_layers.1": "time_emb_proj",
  skip_connection: "conv_shortcut",
};

const OUTSIDE: Readonly<Record<string, readonly string[]>> = {
  "input_blocks.0.0": ["conv_in"],
  "out.2": ["conv_out"],
  "time_embed.0": ["time_embedding", "linear_1"],
  "time_embed.2": ["time_embedding", "linear_2"],
  "label_emb.0.0": ["add_embedding", "linear_1"],
  "label_emb.0.2": ["add_embedding", "linear_2"],
};

/**
 * sd-scripts trains SDXL on the original U-Net (Rombach et al.'s), whose blocks are one list on the way down and one on the
 * way up: of every three, as many as Stable Diffusion 1, 2 and XL have, diffusers makes a level.
 */
function fromOriginal(words: readonly string[]): readonly string[] | undefined {
  const outside = OUTSIDE[words.join(".")];
  if (outside) return outside;
  const [list, place = "", ...rest] = words;
  if (list === "middle_block") {
    const mid: Readonly<Record<string, readonly string[]>> = {
      "0": ["resnets", "0"],
      "1": ["attentions", "0"],
      "2": ["resnets", "1"],
    };
    const module = mid[place];
    return module && ["mid_block", ...module, ...(RESNET[rest.join(".")]?.split(".") ?? rest)];
  }
  if (list !== "input_blocks" && list !== "output_blocks") return undefined;
  const [part, ...layer] = rest;
  // conv_in is the first of input_blocks.
  const number = Number(place) - (list === "input_blocks" ? 1 : 0);
  const level = [list === "input_blocks" ? "down_blocks" : "up_blocks", String(Math.floor(number / 3))];
  const resnet = RESNET[layer.join(".")];
  if (resnet) return [...level, "resnets", String(number % 3), resnet];
  if (layer[0] === "op") return [...level, "downsamplers", "0", "conv"];
  if (layer[0] === "conv") return [...level, "upsamplers", "0", "conv"];
  return part === "1" ? [...level, "attentions", String(number % 3), ...layer] : undefined;
}
