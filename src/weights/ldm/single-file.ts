/**
 * Opens a whole model in one file, in the layout of the original Stable Diffusion code (latent diffusion, "LDM"): the
 * U-Net under `model.diffusion_model.`, the VAE under `first_stage_model.`, the text encoders under `cond_stage_model.`
 * or, in SDXL, `conditioner.embedders.`. The result looks like a folder in the diffusers layout. Its tensors have the
 * names of that layout. The file has no configurations, so they are derived from the shapes of the tensors and from
 * what is known of the model family.
 */
import { realpath, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { InputError, quote } from "../../errors/index.js";
import { exists } from "../../io/files.js";
import { type Component, type Model, openModelFolder } from "../folder.js";
import { readTensor, type WeightFile, type WeightSource } from "../source.js";
import { openWeightFile } from "../weight-file.js";
import { renamed } from "./rename.js";
import { type LdmText, readClip, readOpenClip } from "./text.js";
import { readLdmUnet, unetConfigOf } from "./unet.js";
import { readLdmVae, vaeConfigOf } from "./vae.js";

export interface SingleFileOptions {
  /** The folder with CLIP's vocabulary. Default: one beside the file. */
  readonly tokenizer?: string | undefined;
  /** What the U-Net predicts. Default: as the file says, or else as is usual for its family. */
  readonly prediction?: Prediction | undefined;
  /** A diffusers folder whose configurations and tokenizers replace the derived ones. Its weights are ignored. */
  readonly config?: string | undefined;
  /** Receives a message about each property that had to be guessed. */
  readonly note?: ((message: string) => void) | undefined;
}

type Family = "Stable Diffusion 1.x" | "Stable Diffusion 2.x" | "Stable Diffusion XL";

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

const CLIP = "cond_stage_model.transformer";
const OPEN_CLIP = "cond_stage_model.model";
const XL_CLIP = "conditioner.embedders.0.transformer";
const XL_OPEN_CLIP = "conditioner.embedders.1.model";

/** The text encoders tell the families apart. */
function familyOf(source: WeightSource): Family {
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

function textEncodersOf(source: WeightSource, family: Family): SourceTextEncoder[] {
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

/** The same values as in diffusion/ddim.ts. */
type Prediction = "epsilon" | "v_prediction" | "sample";

/** The settings of the scheduler that depend on how the U-Net was trained. */
interface PredictionConfig {
  readonly prediction_type: Prediction;
  readonly rescale_betas_zero_snr?: true;
  readonly timestep_spacing?: "trailing";
}

/** Heads and sample sizes of the published models. SD 1.x has 8 heads at every level; later heads have 64 features. */
const UNET = {
  "Stable Diffusion 1.x": () => ({ headsAt: () => 8, sampleSize: 64 }),
  // 2.x predicts the noise at 512 pixels and v at 768 pixels.
  "Stable Diffusion 2.x": ({ prediction_type }) => ({
    headsAt: headsOf64,
    sampleSize: prediction_type === "v_prediction" ? 96 : 64,
  }),
  "Stable Diffusion XL": () => ({ headsAt: headsOf64, sampleSize: 128 }),
} satisfies Record<Family, (prediction: PredictionConfig) => Parameters<typeof unetConfigOf>[1]>;

function headsOf64(channels: number): number {
  return Math.max(1, Math.floor(channels / 64));
}

const VAE = {
  "Stable Diffusion 1.x": { scalingFactor: 0.18215 },
  "Stable Diffusion 2.x": { scalingFactor: 0.18215 },
  "Stable Diffusion XL": { scalingFactor: 0.13025 },
} satisfies Record<Family, { scalingFactor: number }>;

/** The noise schedule that all families were trained with. */
const SCHEDULER = {
  num_train_timesteps: 1000,
  beta_schedule: "scaled_linear",
  beta_start: 0.00085,
  beta_end: 0.012,
  timestep_spacing: "leading",
  steps_offset: 1,
  set_alpha_to_one: false,
  clip_sample: false,
};

/** The repository on the hub that has CLIP's tokenizer. */
export const CLIP_TOKENIZER = "openai/clip-vit-large-patch14";

/** The tokenizer_config.json for CLIP's vocabulary, which all these models share. */
export const CLIP_TOKENIZER_CONFIG = {
  tokenizer_class: "CLIPTokenizer",
  model_max_length: 77,
  bos_token: "<|startoftext|>",
  eos_token: "<|endoftext|>",
  unk_token: "<|endoftext|>",
};

/** The training step of 2.0-base, the only 2.x model that can be recognized for certain. */
const STEP_OF_2_0_BASE = 875_000;

/**
 * What the U-Net was trained to predict does not show in its weights. Newer files say it in their header (the
 * `modelspec` convention) or with an empty tensor `v_pred`, and with `ztsnr` if the betas were rescaled to zero
 * terminal SNR. Otherwise 1.x and SDXL predict the noise. Of 2.x, the base models predict the noise and the 768-pixel
 * models predict v, and only the training step of 2.0-base tells them apart.
 */
async function predictionOf(
  source: WeightSource,
  metadata: Readonly<Record<string, string>>,
  family: Family,
  { prediction, config, note = () => {} }: SingleFileOptions,
): Promise<PredictionConfig> {
  if (prediction) return { prediction_type: prediction };
  if (source.get("v_pred")) {
    const zeroSnr = source.get("ztsnr")
      ? ({ rescale_betas_zero_snr: true, timestep_spacing: "trailing" } as const)
      : {};
    return { prediction_type: "v_prediction", ...zeroSnr };
  }
  const declared = metadata["modelspec.prediction_type"];
  if (declared === "v") return { prediction_type: "v_prediction" };
  if (declared === "epsilon") return { prediction_type: "epsilon" };
  // With loading.config, the user's scheduler configuration is used instead of this one.
  if (family !== "Stable Diffusion 2.x" || config !== undefined) return { prediction_type: "epsilon" };
  const step = source.get("global_step");
  if (step && step.shape.length === 0 && Number((await readTensor(step)).data[0]) === STEP_OF_2_0_BASE) {
    return { prediction_type: "epsilon" };
  }
  note(
    `${source.describe} does not say what it predicts. It is treated as a 768-pixel model of Stable Diffusion 2.x, which ` +
      "predicts v. For a 512-pixel model, set loading.prediction_type=epsilon and sampling.height and sampling.width to 512",
  );
  return { prediction_type: "v_prediction" };
}

async function tokenizerFolder(path: string, { tokenizer }: SingleFileOptions): Promise<string> {
  const found = tokenizer ?? (await tokenizerBeside(path));
  if (found !== undefined) return found;
  throw new InputError(
    "model-incomplete",
    `${path}: a single file has no tokenizer. Put CLIP's vocab.json and merges.txt beside it, or set loading.tokenizer to ` +
      "their folder.",
    { path, missing: "tokenizer", setting: "loading.tokenizer" },
  );
}

/** The folder with a vocabulary beside a single file, or beside the file that it links to. */
export async function tokenizerBeside(path: string): Promise<string | undefined> {
  return (await tokenizerIn(dirname(path))) ?? (await tokenizerIn(dirname(await realpath(path).catch(() => path))));
}

/** `folder`/tokenizer or `folder`, if a vocabulary is in it. */
export async function tokenizerIn(folder: string): Promise<string | undefined> {
  for (const candidate of [join(folder, "tokenizer"), folder]) {
    const has = (name: string) => exists(join(candidate, name));
    if (((await has("vocab.json")) && (await has("merges.txt"))) || (await has("tokenizer.json"))) return candidate;
  }
  return undefined;
}

/** Whether `path` is a file, or a link to one. */
export async function isSingleFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isFile() === true;
}
