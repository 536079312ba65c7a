/** Says what a file of tensors is, from their names and shapes. */
import { InputError } from "../../errors/index.js";
import { sizeOf } from "../../tensor/shape.js";
import { UNET } from "../ldm/defaults.js";
import { familyOf } from "../ldm/family.js";
import { predictionOf } from "../ldm/prediction.js";
import { readLdmUnet } from "../ldm/unet.js";
import type { WeightFile } from "../source.js";
import { describeAdapter } from "./adapter.js";
import { architectureOf } from "./architecture.js";
import { type Look, type LookKind, type LookOptions, textualInversion } from "./kinds.js";

/** Kinds that the names of their tensors show, in this order. */
const PARTS: readonly (readonly [RegExp, LookKind, string, string])[] = [
  [
    /^(control_model\.|input_hint_block\.|controlnet_cond_embedding\.)/,
    "controlnet",
    "a ControlNet",
    "ControlNets are not supported.",
  ],
  [/^(image_proj|ip_adapter)\./, "controlnet", "an IP-Adapter", "IP-Adapters are not supported."],
  [
    /^(input_blocks|diffusion_model\.input_blocks|model\.diffusion_model\.input_blocks)\.0\.0\.weight$/,
    "component-file",
    "a U-Net alone, in the original layout",
    "A model also needs a VAE and a text encoder. Give a file or folder of the whole model.",
  ],
  [
    /^down_blocks\.0\.resnets\.0\.conv1\.weight$/,
    "component-file",
    "a U-Net alone, in the layout of diffusers",
    "Give the folder of the whole model, which has a folder unet/ with this file and its config.json.",
  ],
  [
    /^(first_stage_model\.)?(decoder\.(up|up_blocks)\.0|post_quant_conv)\b/,
    "component-file",
    "a VAE alone",
    "A model also needs a U-Net and a text encoder. Give a file or folder of the whole model.",
  ],
  [
    /^(text_model|transformer\.text_model|conditioner\.embedders|cond_stage_model)\./,
    "component-file",
    "a text encoder alone",
    "A model also needs a U-Net and a VAE. Give a file or folder of the whole model.",
  ],
  [
    /^encoder\.block\.0\.layer\.0\.SelfAttention\./,
    "component-file",
    "a T5 text encoder",
    "Models with T5 are not supported.",
  ],
];

export async function lookAtTensors(path: string, file: WeightFile, options: LookOptions = {}): Promise<Look> {
  const names = [...file.names()];
  const is = (kind: LookKind, what: string, advice: string, rest: Partial<Look> = {}): Look => ({
    path,
    kind,
    what,
    details: { tensors: names.length },
    advice,
    supported: false,
    ...rest,
  });
  if (file.metadata?.format?.startsWith("alignprop training state")) {
    return is("training-state", "the training state of a run", "Give the folder of its checkpoint, or of the run.");
  }
  const adapter = describeAdapter(path, file);
  if (adapter) return adapter;
  const architecture = architectureOf(names);
  if (architecture !== undefined) {
    return is(
      "other-architecture",
      `a model of ${architecture}`,
      `${architecture} is not supported. The supported models are Stable Diffusion 1.x, 2.x and XL.`,
      { details: { tensors: names.length, architecture } },
    );
  }
  if (isTextualInversion(file, names)) return textualInversion(path, { tensors: names.length });
  const has = (pattern: RegExp) => names.some((name) => pattern.test(name));
  const isWhole = has(/^model\.diffusion_model\./) && has(/^(cond_stage_model|conditioner)\./);
  if (isWhole) return lookAtModelFile(path, file, options);
  for (const [pattern, kind, what, advice] of PARTS) if (has(pattern)) return is(kind, what, advice);
  const [first] = names;
  return is("weights", `a file of ${names.length} tensors of an unknown model`, "Is it a model for images?", {
    details: { tensors: names.length, ...(first !== undefined && { first }) },
  });
}

/** A whole model in the original layout. What makes it unsupported is said by the functions that read it. */
async function lookAtModelFile(path: string, file: WeightFile, { prediction }: LookOptions): Promise<Look> {
  const inputs = file.get("model.diffusion_model.input_blocks.0.0.weight")?.shape[1];
  const outputs = file.get("model.diffusion_model.out.2.weight")?.shape[0];
  const use = inputChannels(inputs, outputs);
  try {
    const family = familyOf(file);
    let assumed = false;
    const note = () => {
      assumed = true;
    };
    const { prediction_type, rescale_betas_zero_snr } = await predictionOf(file, file.metadata ?? {}, family, {
      prediction,
      note,
    });
    readLdmUnet(file);
    const side = 8 * UNET[family]({ prediction_type }).sampleSize;
    const details = {
      family,
      predicts: assumed ? `${prediction_type} (assumed)` : prediction_type,
      ...(rescale_betas_zero_snr && { betas: "rescaled to end in pure noise" }),
      resolution: `${side}x${side}`,
    };
    if (use !== undefined) {
      return {
        path,
        kind: "model-file",
        what: `${use}, in one file`,
        details,
        advice: NOT_TEXT_TO_IMAGE,
        supported: false,
      };
    }
    return {
      path,
      kind: "model-file",
      what: `a ${family} model in one file`,
      details,
      advice: "Give it as the model.",
      command: ["generate", "--model", path, "--prompt", "a cat"],
      supported: true,
    };
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return {
      path,
      kind: "model-file",
      what: use === undefined ? "a model in one file that is not supported" : `${use}, in one file`,
      details: {},
      advice: use === undefined ? error.message : NOT_TEXT_TO_IMAGE,
      supported: false,
      ...(use === undefined && { cause: error }),
    };
  }
}

export const NOT_TEXT_TO_IMAGE =
  "Its U-Net takes another image besides the noise, which is not supported. Use a text-to-image model.";

/** What a Stable Diffusion U-Net with so many input channels is made for; undefined if it makes images of text alone. */
export function inputChannels(input: number | undefined, output: number | undefined): string | undefined {
  if (input === undefined || output === undefined || input === output) return undefined;
  switch (input) {
    case 9:
      return "an inpainting model (9 input channels)";
    case 8:
      return "a model that edits images, such as InstructPix2Pix (8 input channels)";
    case 7:
      return "a model that enlarges images (7 input channels)";
    case 5:
      return "a model that needs a depth map (5 input channels)";
    default:
      return undefined;
  }
}

/** A1111's and diffusers' forms, and that of XL with a vector for each text encoder. */
function isTextualInversion(file: WeightFile, names: readonly string[]): boolean {
  if (names.includes("emb_params")) return true;
  if (names.length > 0 && names.every((name) => ["clip_l", "clip_g"].includes(name))) return true;
  const [only] = names;
  if (only === undefined || names.length > 1) return false;
  const shape = file.get(only)?.shape ?? [];
  return (
    !only.includes(".") && shape.length <= 2 && [768, 1024, 1280].includes(shape.at(-1) ?? 0) && sizeOf(shape) < 2 ** 18
  );
}
