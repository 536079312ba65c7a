/** Metadata of an adapter file: the model that it belongs to, under the keys of sd-scripts and of Stability's ModelSpec 1.0. */
import type { Prediction } from "../diffusion/ddim.js";
import { vaeFactor } from "../models/vae/config.js";
import type { LatentSize } from "./latent-size.js";
import type { Pipeline } from "./pipeline.js";

/** Names of what a U-Net predicts in ModelSpec, which has none for a model that predicts the image. */
const PREDICTIONS: Partial<Record<Prediction, string>> = { epsilon: "epsilon", v_prediction: "v" };

/**
 * ComfyUI, A1111 and model sites find the base model of an adapter by these keys.
 *
 * @param size of the latents that the adapter was trained on
 */
export function modelMetadata(
  pipeline: Pipeline,
  title: string,
  { height, width }: LatentSize,
): Record<string, string> {
  const { base, architecture } = family(pipeline);
  const factor = vaeFactor(pipeline.vae);
  const prediction = PREDICTIONS[pipeline.scheduler.prediction_type];
  return {
    ss_output_name: title,
    ss_base_model_version: base,
    ss_v2: base === "sd_v2" ? "True" : "False",
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.architecture": `${architecture}/lora`,
    "modelspec.implementation": "diffusers",
    "modelspec.title": title,
    ...(prediction !== undefined && { "modelspec.prediction_type": prediction }),
    "modelspec.resolution": `${width * factor}x${height * factor}`,
  };
}

/** Only XL has additional embeddings. Stable Diffusion 2 has linear projections around its transformers, and 1 has not. */
function family({ unet }: Pipeline): { base: string; architecture: string } {
  if (unet.addition) return { base: "sdxl_base_v1-0", architecture: "stable-diffusion-xl-v1-base" };
  if (unet.useLinearProjection) return { base: "sd_v2", architecture: "stable-diffusion-v2" };
  return { base: "sd_v1", architecture: "stable-diffusion-v1" };
}
