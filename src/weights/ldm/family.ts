/** The families of models that a single file may hold, and the text encoders of each. */
import { InputError, quote } from "../../errors/index.js";
import type { WeightSource } from "../source.js";
import { type LdmText, readClip, readOpenClip } from "./text.js";

export type Family = "Stable Diffusion 1.x" | "Stable Diffusion 2.x" | "Stable Diffusion XL";

const CLIP = "cond_stage_model.transformer";
const OPEN_CLIP = "cond_stage_model.model";
const XL_CLIP = "conditioner.embedders.0.transformer";
const XL_OPEN_CLIP = "conditioner.embedders.1.model";

/** The text encoders tell the families apart. */
export function familyOf(source: WeightSource): Family {
  const prefixes = new Set<string>();
  for (const name of source.names()) {
    if (name.startsWith("model.diffusion_model.")) prefixes.add("unet");
    for (const prefix of [CLIP, OPEN_CLIP, XL_CLIP, XL_OPEN_CLIP])
      if (name.startsWith(`${prefix}.`)) prefixes.add(prefix);
  }
  if (!prefixes.has("unet")) {
    const [first] = source.names();
    const isLora = first !== undefined && /lora/.test(first);
    throw new InputError(
      "model-unsupported",
      `${source.describe}: is not a Stable Diffusion checkpoint in the original layout: no tensor is named ` +
        `model.diffusion_model.… (the first tensor is ${quote(first)}). ` +
        `${isLora ? "It looks like an adapter: give it with --adapter. " : ""}` +
        "For a model in the diffusers layout, give its folder.",
      {
        path: source.describe,
        missing: "model.diffusion_model.",
        found: first,
        suggestion: isLora ? "--adapter" : undefined,
      },
    );
  }
  if (prefixes.has(XL_CLIP) && prefixes.has(XL_OPEN_CLIP)) return "Stable Diffusion XL";
  if (prefixes.has(OPEN_CLIP)) return "Stable Diffusion 2.x";
  if (prefixes.has(CLIP)) return "Stable Diffusion 1.x";
  throw new InputError(
    "model-unsupported",
    `${source.describe}: has none of the supported text encoders (${CLIP}, ${OPEN_CLIP}, or ${XL_CLIP} with ` +
      `${XL_OPEN_CLIP}). Files with the U-Net alone, SDXL's refiner and Stable Diffusion 3 are not supported.`,
    { path: source.describe, missing: "text_encoder", expected: [CLIP, OPEN_CLIP, XL_CLIP, XL_OPEN_CLIP] },
  );
}

interface SourceTextEncoder {
  readonly className: string;
  readonly text: LdmText;
  /** transformers pads with the end-of-text token, OpenCLIP with id 0. */
  readonly padToken: string;
}

export function textEncodersOf(source: WeightSource, family: Family): SourceTextEncoder[] {
  const clip = (prefix: string): SourceTextEncoder => ({
    className: "CLIPTextModel",
    text: readClip(source, prefix),
    padToken: "<|endoftext|>",
  });
  switch (family) {
    case "Stable Diffusion 1.x":
      return [clip(CLIP)];
    case "Stable Diffusion 2.x":
      return [
        { className: "CLIPTextModel", text: readOpenClip(source, OPEN_CLIP, { penultimate: true }), padToken: "!" },
      ];
    case "Stable Diffusion XL":
      return [
        clip(XL_CLIP),
        {
          className: "CLIPTextModelWithProjection",
          text: readOpenClip(source, XL_OPEN_CLIP, { penultimate: false }),
          padToken: "!",
        },
      ];
  }
}
