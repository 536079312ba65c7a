/**
 * Opens a whole model in one file, in the layout of the original Stable Diffusion code (latent diffusion, "LDM"): the
 * U-Net under `model.diffusion_model.`, the VAE under `first_stage_model.`, the text encoders under `cond_stage_model.`
 * or, in SDXL, `conditioner.embedders.`. The result looks like a folder in the diffusers layout. Its tensors have the
 * names of that layout. The file has no configurations, so they are derived from the shapes of the tensors and from
 * what is known of the model family.
 */
import { realpath, stat } from "node:fs/promises";
import { resolve } from "node:path";
import { InputError } from "../../errors/index.js";
import { type Component, type Model, openModelFolder } from "../folder.js";
import type { WeightFile, WeightSource } from "../source.js";
import { openWeightFile } from "../weight-file.js";
import { SCHEDULER, UNET, VAE } from "./defaults.js";
import { familyOf, textEncodersOf } from "./family.js";
import { type PredictionOptions, predictionOf } from "./prediction.js";
import { renamed } from "./rename.js";
import { CLIP_TOKENIZER_CONFIG, tokenizerFolder } from "./tokenizer.js";
import { readLdmUnet, unetConfigOf } from "./unet.js";
import { readLdmVae, vaeConfigOf } from "./vae.js";

export interface SingleFileOptions extends PredictionOptions {
  /** The folder with CLIP's vocabulary. Default: one beside the file. */
  readonly tokenizer?: string | undefined;
}

/** Opens the file and builds its model, with the errors of `openWeightFile` and `singleFileModel`. */
export async function openSingleFile(path: string, options: SingleFileOptions = {}): Promise<Model> {
  return singleFileModel(path, await openWeightFile(path), options);
}

/**
 * The model whose tensors are in `source`.
 *
 * @param path the file, for error messages and as the folder in which to look for a tokenizer
 * @throws InputError when the model is incomplete or not supported, when no tokenizer is found, or when it does not
 *   match the folder of `options.config`
 */
export async function singleFileModel(
  path: string,
  source: Omit<WeightFile, "path">,
  options: SingleFileOptions = {},
): Promise<Model> {
  const family = familyOf(source);
  const unet = readLdmUnet(source);
  const vae = readLdmVae(source);
  const textEncoders = textEncodersOf(source, family);
  const prediction = await predictionOf(source, source.metadata ?? {}, family, options);

  const made = new Map<string, Omit<Component, "path">>();
  const add = (name: string, className: string, config: unknown, weights?: WeightSource) =>
    made.set(name, {
      className,
      config: async () => config,
      weights: async () => {
        if (weights) return weights;
        throw new RangeError(`${path}: the component ${name} has no weights`);
      },
    });
  add("unet", "UNet2DConditionModel", unetConfigOf(unet, UNET[family](prediction)), renamed(source, unet.modules));
  add("vae", "AutoencoderKL", vaeConfigOf(vae, VAE[family]), renamed(source, vae.modules));
  add("scheduler", "DDIMScheduler", { ...SCHEDULER, ...prediction });
  for (const [i, { className, text, padToken }] of textEncoders.entries()) {
    const suffix = i === 0 ? "" : `_${i + 1}`;
    add(`text_encoder${suffix}`, className, text.config, await text.weights());
    add(`tokenizer${suffix}`, "CLIPTokenizer", { ...CLIP_TOKENIZER_CONFIG, pad_token: padToken });
  }
  const pipeline = family === "Stable Diffusion XL" ? "StableDiffusionXLPipeline" : "StableDiffusionPipeline";
  const realPath = await realpath(path).catch(() => resolve(path));
  const components = new Map<string, Component>();
  const folder = options.config === undefined ? undefined : await openModelFolder(options.config);
  const tokenizer = folder ? undefined : await tokenizerFolder(path, options);
  for (const [name, component] of made) {
    const given = folder?.components.get(name);
    if (folder && !given) {
      throw new InputError(
        "model-mismatch",
        `${path}: is a ${family} model, but ${folder.path} (loading.config) has no ${name}. ` +
          `Give the folder of a ${family} model.`,
        { path, family, setting: "loading.config", config: folder.path, component: name },
      );
    }
    const location = name.startsWith("tokenizer") ? (tokenizer as string) : `${path} (${name})`;
    components.set(name, given ? { ...given, weights: component.weights } : { ...component, path: location });
  }
  return { kind: "file", path: realPath, pipeline, components, options: folder?.options ?? {} };
}

/** Whether `path` is a file, or a link to one. */
export async function isSingleFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isFile() === true;
}
