import { cp, mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { fromNumbers, type HostTensor, toNumbers } from "../src/tensor/host.js";
import { writeSafetensors } from "../src/weights/safetensors.js";

/** Writes models in the layouts of diffusers and transformers, with float16 weights. */

async function writeJson(file: string, content: unknown): Promise<void> {
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, `${JSON.stringify(content, null, 2)}\n`);
}

/** The names of `tensors` begin with one root ("vae.encoder…"), which is left out in the file. */
export async function writeWeights(file: string, tensors: ReadonlyMap<string, HostTensor>): Promise<void> {
  await mkdir(path.dirname(file), { recursive: true });
  const converted = [...tensors].map(([name, tensor]) => {
    const float16 = fromNumbers(toNumbers(tensor), tensor.shape, "float16");
    return [name.slice(name.indexOf(".") + 1), float16] as const;
  });
  await writeSafetensors(file, new Map(converted), { format: "pt" });
}

export interface ModelParts {
  readonly unet: { readonly config: object; readonly weights: ReadonlyMap<string, HostTensor> };
  readonly vae: { readonly config: object; readonly weights: ReadonlyMap<string, HostTensor> };
  readonly textEncoder: { readonly config: object; readonly weights: ReadonlyMap<string, HostTensor> };
  readonly scheduler: object;
  /** A folder to copy. */
  readonly tokenizer: string;
}

/** Writes a folder that diffusers opens as a StableDiffusionPipeline. */
export async function writeModelFolder(
  folder: string,
  { unet, vae, textEncoder, scheduler, tokenizer }: ModelParts,
): Promise<void> {
  await writeJson(path.join(folder, "model_index.json"), {
    _class_name: "StableDiffusionPipeline",
    feature_extractor: [null, null],
    safety_checker: [null, null],
    requires_safety_checker: false,
    scheduler: ["diffusers", "DDIMScheduler"],
    text_encoder: ["transformers", "CLIPTextModel"],
    tokenizer: ["transformers", "CLIPTokenizer"],
    unet: ["diffusers", "UNet2DConditionModel"],
    vae: ["diffusers", "AutoencoderKL"],
  });
  await writeJson(path.join(folder, "scheduler/scheduler_config.json"), scheduler);
  for (const [name, file, part] of [
    ["unet", "diffusion_pytorch_model.safetensors", unet],
    ["vae", "diffusion_pytorch_model.safetensors", vae],
    ["text_encoder", "model.safetensors", textEncoder],
  ] as const) {
    await writeJson(path.join(folder, name, "config.json"), part.config);
    await writeWeights(path.join(folder, name, file), part.weights);
  }
  const copy = path.join(folder, "tokenizer");
  if (path.resolve(copy) !== path.resolve(tokenizer)) await cp(tokenizer, copy, { recursive: true });
}

/** Writes the folder of the embedded count reward. */
export async function writeCountFolder(folder: string, config: object, weights: ReadonlyMap<string, HostTensor>) {
  await writeJson(path.join(folder, "config.json"), config);
  await writeWeights(path.join(folder, "model.safetensors"), weights);
}

/** Writes a CLIPModel folder of transformers. */
export async function writeClipFolder(
  folder: string,
  config: object,
  preprocessor: object,
  weights: ReadonlyMap<string, HostTensor>,
) {
  await writeJson(path.join(folder, "config.json"), config);
  await writeJson(path.join(folder, "preprocessor_config.json"), preprocessor);
  await writeWeights(path.join(folder, "model.safetensors"), weights);
}
