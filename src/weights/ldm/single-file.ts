/**
 * A whole model in one file, in the layout of the original Stable Diffusion code (latent diffusion, "LDM"): the U-Net
 * under `model.diffusion_model.`, the VAE under `first_stage_model.`, text encoders under `cond_stage_model.` or, in
 * SDXL, `conditioner.embedders.`. Opened, it looks like a folder in the diffusers layout: tensors have its names, and
 * the configurations that a file does not hold are made from its shapes and from what its family is known to be.
 */
import { realpath, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { InputError } from "../../errors/index.js";
import { exists } from "../../io/files.js";
import { type Component, type Model, openModelFolder } from "../folder.js";
import { readTensor, type WeightFile, type WeightSource } from "../source.js";
import { openWeightFile } from "../weight-file.js";
import { renamed } from "./rename.js";
import { type LdmText, readClip, readOpenClip } from "./text.js";
import { readLdmUnet, unetConfigOf } from "./unet.js";
import { readLdmVae, vaeConfigOf } from "./vae.js";

export interface SingleFileOptions {
  /** The folder with CLIP's vocabulary; where it is not given, one beside the file. */
  readonly tokenizer?: string | undefined;
  /** What the U-Net predicts, where the user says so. */
  readonly prediction?: Prediction | undefined;
  /** A diffusers folder whose configurations and tokenizers stand for those made here; its weights are not read. */
  readonly config?: string | undefined;
  /** Told of what had to be guessed. */
  readonly note?: ((message: string) => void) | undefined;
}

type Family = "Stable Diffusion 1.x" | "Stable Diffusion 2.x" | "Stable Diffusion XL";

export async function openSingleFile(path: string, options: SingleFileOptions = {}): Promise<Model> {
  return singleFileModel(path, await openWeightFile(path), options);
}

/** The tensors of the file at `path` as a model. */
export async function singleFileModel(
  path: string,
  source: Omit<WeightFile, "path">,
  options: SingleFileOptions = {},
): Promise<Model> {
  const family = familyOf(source);
  const unet = readLdmUnet(source);
  const vae = readLdmVae(source);
  const texts = textsOf(source, family);
  const prediction = await predictionOf(source, source.metadata ?? {}, family, options);

  const parts = new Map<string, Omit<Component, "path">>();
  const part = (name: string, className: string, config: unknown, weights?: WeightSource) =>
    parts.set(name, {
      className,
      config: async () => config,
      weights: async () => weights ?? refuse(path, `the part ${name} has no weights`),
    });
  part("unet", "UNet2DConditionModel", unetConfigOf(unet, UNET[family](prediction)), renamed(source, unet.modules));
  part("vae", "AutoencoderKL", vaeConfigOf(vae, VAE[family]), renamed(source, vae.modules));
  part("scheduler", "DDIMScheduler", { ...SCHEDULER, ...prediction });
  for (const [i, { className, text, padToken }] of texts.entries()) {
    const suffix = i === 0 ? "" : `_${i + 1}`;
    part(`text_encoder${suffix}`, className, text.config, await text.weights());
    part(`tokenizer${suffix}`, "CLIPTokenizer", { ...CLIP_TOKENIZER_CONFIG, pad_token: padToken });
  }
  const pipeline = family === "Stable Diffusion XL" ? "StableDiffusionXLPipeline" : "StableDiffusionPipeline";
  const real = await realpath(path).catch(() => resolve(path));
  const components = new Map<string, Component>();
  const folder = options.config === undefined ? undefined : await openModelFolder(options.config);
  const tokenizer = folder ? undefined : await tokenizerFolder(path, options);
  for (const [name, made] of parts) {
    const given = folder?.components.get(name);
    if (folder && !given) refuse(path, `is a ${family} model, but ${folder.path} (loading.config) names no ${name}`);
    const place = name.startsWith("tokenizer") ? (tokenizer as string) : `${path} (${name})`;
    components.set(name, given ? { ...given, weights: made.weights } : { ...made, path: place });
  }
  return { kind: "file", path: real, pipeline, components, options: folder?.options ?? {} };
}

function refuse(path: string, what: string): never {
  throw new InputError("file-malformed", `${path}: ${what}`);
}

const CLIP = "cond_stage_model.transformer";
const OPEN_CLIP = "cond_stage_model.model";
const XL_CLIP = "conditioner.embedders.0.transformer";
const XL_OPEN_CLIP = "conditioner.embedders.1.model";

/** The families differ in their text encoders; so does what the U-Net attends to. */
function familyOf(source: WeightSource): Family {
  const prefixes = new Set<string>();
  for (const name of source.names()) {
    if (name.startsWith("model.diffusion_model.")) prefixes.add("unet");
    for (const prefix of [CLIP, OPEN_CLIP, XL_CLIP, XL_OPEN_CLIP])
      if (name.startsWith(`${prefix}.`)) prefixes.add(prefix);
  }
  if (!prefixes.has("unet")) {
    const [first] = source.names();
    const lora =
      first !== undefined && /lora/.test(first) ? " It looks like an adapter: give that with --adapter." : "";
    refuse(
      source.describe,
      `is no Stable Diffusion checkpoint in the original layout: no tensor is called model.diffusion_model.… (the first is ${JSON.stringify(first)}).${lora} A model in the diffusers layout is given as its folder.`,
    );
  }
  if (prefixes.has(XL_CLIP) && prefixes.has(XL_OPEN_CLIP)) return "Stable Diffusion XL";
  if (prefixes.has(OPEN_CLIP)) return "Stable Diffusion 2.x";
  if (prefixes.has(CLIP)) return "Stable Diffusion 1.x";
  return refuse(
    source.describe,
    `has no text encoder that is known here (${CLIP}, ${OPEN_CLIP}, or ${XL_CLIP} with ${XL_OPEN_CLIP}). Files of the U-Net alone, SDXL's refiner and Stable Diffusion 3 are not supported.`,
  );
}

interface TextPart {
  readonly className: string;
  readonly text: LdmText;
  /** transformers pads with the end of text, OpenCLIP with id 0. */
  readonly padToken: string;
}

function textsOf(source: WeightSource, family: Family): TextPart[] {
  const clip = (prefix: string): TextPart => ({
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

/** As in diffusion/ddim.ts. */
type Prediction = "epsilon" | "v_prediction" | "sample";

interface Trained {
  readonly prediction_type: Prediction;
  readonly rescale_betas_zero_snr?: true;
  readonly timestep_spacing?: "trailing";
}

/** Heads and sizes as the families were published. Heads are 8 everywhere in the first, and 64 features wide later. */
const UNET = {
  "Stable Diffusion 1.x": () => ({ headsAt: () => 8, sampleSize: 64 }),
  // 2.x at 512 pixels predicts the noise, at 768 the velocity.
  "Stable Diffusion 2.x": ({ prediction_type }) => ({
    headsAt: headsOf64,
    sampleSize: prediction_type === "v_prediction" ? 96 : 64,
  }),
  "Stable Diffusion XL": () => ({ headsAt: headsOf64, sampleSize: 128 }),
} satisfies Record<Family, (trained: Trained) => Parameters<typeof unetConfigOf>[1]>;

function headsOf64(channels: number): number {
  return Math.max(1, Math.floor(channels / 64));
}

const VAE = {
  "Stable Diffusion 1.x": { scalingFactor: 0.18215 },
  "Stable Diffusion 2.x": { scalingFactor: 0.18215 },
  "Stable Diffusion XL": { scalingFactor: 0.13025 },
} satisfies Record<Family, { scalingFactor: number }>;

/** The noise that all of them were trained on. */
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

/** Where it lies on the hub. */
export const CLIP_TOKENIZER = "openai/clip-vit-large-patch14";

/** What tokenizer_config.json says of CLIP's vocabulary, which all these models share. */
export const CLIP_TOKENIZER_CONFIG = {
  tokenizer_class: "CLIPTokenizer",
  model_max_length: 77,
  bos_token: "<|startoftext|>",
  eos_token: "<|endoftext|>",
  unk_token: "<|endoftext|>",
};

/** The update that 2.0-base was saved after, of the 2.x models the only one that a file tells for sure. */
const STEP_OF_2_0_BASE = 875_000;

/**
 * What the U-Net was trained to predict lies in no weight. Newer files say it in their header (the `modelspec`
 * convention) or by an empty tensor `v_pred`, with `ztsnr` for betas rescaled to end in pure noise. Otherwise all but
 * 2.x predict the noise; of 2.x the base does and the 768-pixel models do not, and only the base's step tells them apart.
 */
async function predictionOf(
  source: WeightSource,
  metadata: Readonly<Record<string, string>>,
  family: Family,
  { prediction, config, note = () => {} }: SingleFileOptions,
): Promise<Trained> {
  if (prediction) return { prediction_type: prediction };
  if (source.get("v_pred")) {
    const zeroSnr = source.get("ztsnr")
      ? ({ rescale_betas_zero_snr: true, timestep_spacing: "trailing" } as const)
      : {};
    return { prediction_type: "v_prediction", ...zeroSnr };
  }
  const said = metadata["modelspec.prediction_type"];
  if (said === "v") return { prediction_type: "v_prediction" };
  if (said === "epsilon") return { prediction_type: "epsilon" };
  // With configurations of the user's own this is not read.
  if (family !== "Stable Diffusion 2.x" || config !== undefined) return { prediction_type: "epsilon" };
  const step = source.get("global_step");
  if (step && step.shape.length === 0 && Number((await readTensor(step)).data[0]) === STEP_OF_2_0_BASE) {
    return { prediction_type: "epsilon" };
  }
  note(
    `${source.describe} does not say what it predicts; taken for a 768-pixel model of Stable Diffusion 2.x, which predicts v. ` +
      "For a 512-pixel one set loading.prediction_type=epsilon, and sampling.height and sampling.width to 512",
  );
  return { prediction_type: "v_prediction" };
}

/** A single file holds no vocabulary. */
async function tokenizerFolder(path: string, { tokenizer }: SingleFileOptions): Promise<string> {
  const found = tokenizer ?? (await tokenizerBeside(path));
  if (found === undefined) {
    refuse(
      path,
      "a single file holds no tokenizer. Put CLIP's vocab.json and merges.txt beside it, or name their folder with loading.tokenizer.",
    );
  }
  return found;
}

/** The folder with a vocabulary beside a single file, or beside what it is a link to. */
export async function tokenizerBeside(path: string): Promise<string | undefined> {
  return (await tokenizerIn(dirname(path))) ?? (await tokenizerIn(dirname(await realpath(path).catch(() => path))));
}

/** The folder with a vocabulary in `folder`: one called tokenizer, or itself. */
export async function tokenizerIn(folder: string): Promise<string | undefined> {
  for (const place of [join(folder, "tokenizer"), folder]) {
    const has = (name: string) => exists(join(place, name));
    if (((await has("vocab.json")) && (await has("merges.txt"))) || (await has("tokenizer.json"))) return place;
  }
  return undefined;
}

export async function isSingleFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isFile() === true;
}
