/** Metadata of an adapter file: the model that it belongs to, under the keys of sd-scripts and of Stability's ModelSpec 1.0. */
import { vaeFactor } from "../models/vae/config.js";
import type { Pipeline } from "./pipeline.js";

/** ComfyUI, A1111 and model sites find the base model of an adapter by these keys. */
export function modelMetadata(pipeline: Pipeline, title: string): Record<string, string> {
  const { base, architecture } = family(pipeline);
  const factor = vaeFactor(pipeline.vae);
  const [height, width] = pipeline.unet.sampleSize ?? [];
  return {
    ss_output_name: title,
    ss_base_model_version: base,
    ss_v2: base === "sd_v2" ? "True" : "False",
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.architecture": `${architecture}/lora`,
    "modelspec.implementation": "diffusers",
    "modelspec.title": title,
    "modelspec.prediction_type": pipeline.scheduler.prediction_type === "v_prediction" ? "v" : "epsilon",
    ...(height && width && { "modelspec.resolution": `${width * factor}x${height * factor}` }),
  };
}

/** Only XL has additional embeddings. Stable Diffusion 2 has linear projections around its transformers, and 1 has not. */
function family({ unet }: Pipeline): { base: string; architecture: string } {
  if (unet.addition) return { base: "sdxl_base_v1-0", architecture: "stable-diffusion-xl-v1-base" };
  if (unet.useLinearProjection) return { base: "sd_v2", architecture: "stable-diffusion-v2" };
  return { base: "sd_v1", architecture: "stable-diffusion-v1" };
}
