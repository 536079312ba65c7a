/** A text-to-image model in the diffusers layout, opened: configurations read and checked, weights left in their files. */
import { join } from "node:path";
import { type Prediction, readSchedulerConfig, type SchedulerConfig } from "../diffusion/ddim.js";
import { InputError } from "../errors/index.js";
import { isRecord } from "../io/record.js";
import { type ClipTextConfig, parseClipTextConfig } from "../models/clip/config.js";
import { type ClipTokenizer, openClipTokenizer } from "../models/clip/tokenizer.js";
import { truncationWarnings } from "../models/clip/truncation.js";
import { parseUnetConfig, TIME_IDS, type UnetConfig } from "../models/unet/config.js";
import { parseVaeConfig, type VaeConfig, vaeFactor } from "../models/vae/config.js";
import { type Component, type Model, openModelFolder, requireComponent } from "../weights/folder.js";
import { isSingleFile, openSingleFile, type SingleFileOptions } from "../weights/ldm/single-file.js";
import { merge, type WeightSource, withPrefix } from "../weights/source.js";

export interface Pipeline {
  /** Absolute. */
  readonly path: string;
  readonly unet: UnetConfig;
  /** unet/config.json as it is: what a U-Net is saved with, so that any reader builds the same one. */
  readonly unetJson: unknown;
  readonly vae: VaeConfig;
  /** One in Stable Diffusion 1 and 2; two in XL, the second of which gives the pooled prompt as well. */
  readonly textEncoders: readonly [TextEncoder] | readonly [TextEncoder, TextEncoder];
  /** Without a negative prompt the unconditional branch is given zeros, not the empty prompt as the encoders read it. */
  readonly forceZerosForEmptyPrompt: boolean;
  readonly scheduler: SchedulerConfig;
  /** All tensors: `unet.…`, `vae.…`, `text_encoder.…`, `text_encoder_2.…`. */
  readonly weights: WeightSource;
}

export interface TextEncoder {
  /** Where its tensors lie in the pipeline's weights. */
  readonly name: "text_encoder" | "text_encoder_2";
  readonly config: ClipTextConfig;
  readonly tokenizer: ClipTokenizer;
}

/** Height and width of a latent. */
export interface LatentSize {
  readonly height: number;
  readonly width: number;
}

/** Schedulers of one family: they differ in how they sample, not in how the model was trained. */
const SCHEDULERS = [
  "DDIMScheduler",
  "DDPMScheduler",
  "PNDMScheduler",
  "LMSDiscreteScheduler",
  "EulerDiscreteScheduler",
  "EulerAncestralDiscreteScheduler",
  "HeunDiscreteScheduler",
  "KDPM2DiscreteScheduler",
  "KDPM2AncestralDiscreteScheduler",
  "DEISMultistepScheduler",
  "DPMSolverSinglestepScheduler",
  "DPMSolverMultistepScheduler",
  "UniPCMultistepScheduler",
];

export interface OpenOptions extends SingleFileOptions {
  /** What the U-Net predicts, whatever the model's scheduler says. */
  readonly prediction?: Prediction | undefined;
}

/** A folder in the diffusers layout, or a single file in the layout of the original code. */
export async function openPipeline(path: string, options: OpenOptions = {}): Promise<Pipeline> {
  return pipelineOf(
    (await isSingleFile(path)) ? await openSingleFile(path, options) : await openModelFolder(path),
    options,
  );
}

/** The parts of a model, checked each and together. */
export async function pipelineOf(
  model: Model,
  { prediction }: Pick<OpenOptions, "prediction"> = {},
): Promise<Pipeline> {
  if (model.components.has("text_encoder_2") && !model.components.has("text_encoder")) {
    throw new InputError(
      "model-mismatch",
      `model ${model.path}: has a text_encoder_2 and no text_encoder, as Stable Diffusion XL's refiner, which starts from another model's picture. Give the base model`,
    );
  }
  const part = (name: string, ...classes: string[]) => requireComponent(model, name, classes);
  const unet = await part("unet", "UNet2DConditionModel");
  const vae = await part("vae", "AutoencoderKL");
  const scheduler = await part("scheduler", ...SCHEDULERS);
  const first = await part("text_encoder", "CLIPTextModel");
  const second =
    model.components.has("text_encoder_2") && (await part("text_encoder_2", "CLIPTextModelWithProjection"));

  const at = ({ path }: Component, file = "config.json") => join(path, file);
  const textEncoder = async (name: TextEncoder["name"], encoder: Component): Promise<TextEncoder> => {
    const tokenizer = await part(name.replace("text_encoder", "tokenizer"), "CLIPTokenizer", "CLIPTokenizerFast");
    return {
      name,
      config: parseClipTextConfig(await encoder.config(), at(encoder)),
      tokenizer: await openClipTokenizer(tokenizer.path, { config: await tokenizer.config("tokenizer_config.json") }),
    };
  };
  const unetJson = await unet.config();
  const schedulerFile = "scheduler_config.json";
  const encoder = await textEncoder("text_encoder", first);
  const pipeline: Pipeline = {
    path: model.path,
    unet: parseUnetConfig(unetJson, at(unet)),
    unetJson,
    vae: parseVaeConfig(await vae.config(), at(vae)),
    textEncoders: second ? [encoder, await textEncoder("text_encoder_2", second)] : [encoder],
    forceZerosForEmptyPrompt: second !== false && forcesZeros(model),
    scheduler: readSchedulerConfig(
      predicting(await scheduler.config(schedulerFile), prediction),
      at(scheduler, schedulerFile),
    ),
    weights: merge(
      withPrefix(await unet.weights(), "unet."),
      withPrefix(await vae.weights(), "vae."),
      withPrefix(await first.weights(), "text_encoder."),
      ...(second ? [withPrefix(await second.weights(), "text_encoder_2.")] : []),
    ),
  };
  checkParts(pipeline);
  return pipeline;
}

/** The model with another U-Net in the place of its own, such as a run with `trainable: unet` made. */
export function withUnet(pipeline: Pipeline, unet: WeightSource | undefined): Pipeline {
  return unet ? { ...pipeline, weights: merge(withPrefix(unet, "unet."), pipeline.weights) } : pipeline;
}

function predicting(schedulerConfig: unknown, prediction: Prediction | undefined): unknown {
  return prediction === undefined || !isRecord(schedulerConfig)
    ? schedulerConfig
    : { ...schedulerConfig, prediction_type: prediction };
}

/** Stable Diffusion XL's option of model_index.json; true where the file does not say, as in diffusers. */
function forcesZeros({ path, options }: Model): boolean {
  const { force_zeros_for_empty_prompt: found = true } = options;
  if (typeof found === "boolean") return found;
  throw new InputError(
    "model-mismatch",
    `${join(path, "model_index.json")}: force_zeros_for_empty_prompt is ${JSON.stringify(found)}; supported: true, false`,
  );
}

/** Parts that are sound each for itself may still not belong together. */
function checkParts({ path, unet, vae, textEncoders }: Pipeline): void {
  const misfit = (message: string) => {
    throw new InputError("model-mismatch", `model ${path}: ${message}. Do these parts belong to one model?`);
  };
  if (unet.inChannels !== vae.latentChannels || unet.outChannels !== vae.latentChannels) {
    misfit(
      `the U-Net goes from ${unet.inChannels} to ${unet.outChannels} channels, but the VAE's latents have ${vae.latentChannels}`,
    );
  }
  for (const { name, config, tokenizer } of textEncoders) {
    if (tokenizer.vocabularySize > config.vocabSize || tokenizer.maxLength > config.maxPositions) {
      misfit(
        `the tokenizer gives ${tokenizer.maxLength} ids below ${tokenizer.vocabularySize}, but the ${name} takes at most ${config.maxPositions} below ${config.vocabSize}`,
      );
    }
  }
  const [first, second] = textEncoders;
  const features = textEncoders.reduce((sum, { config }) => sum + config.hiddenSize, 0);
  if (unet.crossAttentionDim !== features) {
    const give = second ? "text encoders together give" : "text encoder gives";
    misfit(`the U-Net attends to ${unet.crossAttentionDim} features, but the ${give} ${features}`);
  }
  if (unet.addition && !second) {
    misfit(
      "the U-Net wants a pooled prompt (addition_embed_type text_time), but there is no text_encoder_2 to give one",
    );
  }
  if (!second) return;
  if (!unet.addition) {
    misfit("there is a text_encoder_2, but the U-Net takes no pooled prompt (it has no addition_embed_type)");
  }
  if (unet.addition?.pooledFeatures !== second.config.projectionDim) {
    misfit(
      `beside ${TIME_IDS} sizes the U-Net takes ${unet.addition?.pooledFeatures} features of the pooled prompt (projection_class_embeddings_input_dim), but text_encoder_2 gives ${second.config.projectionDim}`,
    );
  }
  if (first.tokenizer.maxLength !== second.tokenizer.maxLength) {
    misfit(`tokenizer gives ${first.tokenizer.maxLength} ids, but tokenizer_2 ${second.tokenizer.maxLength}`);
  }
}

/** The size of the latents behind pictures of height x width pixels; null is the size that the model was trained at. */
export function latentSize(pipeline: Pipeline, height: number | null, width: number | null): LatentSize {
  const factor = vaeFactor(pipeline.vae);
  const unit = factor * 2 ** (pipeline.unet.levels.length - 1);
  const side = (name: "height" | "width", pixels: number | null, trained: number | undefined): number => {
    const wanted = pixels ?? (trained === undefined ? undefined : trained * factor);
    if (wanted === undefined) {
      throw new InputError(
        "model-mismatch",
        `sampling.${name}: the model in ${pipeline.path} does not say its size (unet/config.json has no sample_size); give it in pixels`,
      );
    }
    if (wanted % unit !== 0) {
      const near = Math.max(1, Math.round(wanted / unit)) * unit;
      throw new InputError(
        "model-mismatch",
        `sampling.${name}: ${wanted} pixels is not a multiple of ${unit}, which this model needs; try ${near}`,
      );
    }
    return wanted / factor;
  };
  const [trainedHeight, trainedWidth] = pipeline.unet.sampleSize ?? [];
  return { height: side("height", height, trainedHeight), width: side("width", width, trainedWidth) };
}

/** A warning for each prompt that is longer than the text encoder reads. */
export function promptWarnings({ textEncoders: [{ tokenizer }] }: Pipeline, prompts: Iterable<string>): string[] {
  return truncationWarnings(tokenizer, prompts, "the text encoder");
}
