/** A text-to-image model in the diffusers layout, opened: configurations read and checked, weights left in their files. */
import { join } from "node:path";
import { z } from "zod";
import { readSchedulerConfig, type SchedulerConfig } from "../diffusion/ddim.js";
import { type ClipTextConfig, parseClipTextConfig } from "../models/clip/config.js";
import { type ClipTokenizer, openClipTokenizer } from "../models/clip/tokenizer.js";
import { truncationWarnings } from "../models/clip/truncation.js";
import { parseUnetConfig, type UnetConfig } from "../models/unet/config.js";
import { parseVaeConfig, type VaeConfig, vaeFactor } from "../models/vae/config.js";
import { InputError } from "../tensor/errors.js";
import { openModelFolder, openWeights, readConfig, requireComponent } from "../weights/folder.js";
import { merge, type WeightSource, withPrefix } from "../weights/source.js";

export interface Pipeline {
  /** Absolute. */
  readonly path: string;
  readonly unet: UnetConfig;
  readonly vae: VaeConfig;
  readonly textEncoder: ClipTextConfig;
  readonly tokenizer: ClipTokenizer;
  readonly scheduler: SchedulerConfig;
  /** All tensors: `unet.…`, `vae.…`, `text_encoder.…`. */
  readonly weights: WeightSource;
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
];

export async function openPipeline(path: string): Promise<Pipeline> {
  const folder = await openModelFolder(path);
  const part = async (name: string, ...classes: string[]) => (await requireComponent(folder, name, classes)).path;
  const unet = await part("unet", "UNet2DConditionModel");
  const vae = await part("vae", "AutoencoderKL");
  const textEncoder = await part("text_encoder", "CLIPTextModel");
  const tokenizer = await part("tokenizer", "CLIPTokenizer", "CLIPTokenizerFast");
  const scheduler = await part("scheduler", ...SCHEDULERS);

  const json = (at: string, file?: string) => readConfig(at, z.unknown(), file);
  const unetConfig = parseUnetConfig(await json(unet), join(unet, "config.json"));
  const vaeConfig = parseVaeConfig(await json(vae), join(vae, "config.json"));
  const textConfig = parseClipTextConfig(await json(textEncoder), join(textEncoder, "config.json"));
  const schedulerFile = "scheduler_config.json";
  const pipeline: Pipeline = {
    path: folder.path,
    unet: unetConfig,
    vae: vaeConfig,
    textEncoder: textConfig,
    tokenizer: await openClipTokenizer(tokenizer),
    scheduler: readSchedulerConfig(await json(scheduler, schedulerFile), join(scheduler, schedulerFile)),
    weights: merge(
      withPrefix(await openWeights(unet), "unet."),
      withPrefix(await openWeights(vae), "vae."),
      withPrefix(await openWeights(textEncoder), "text_encoder."),
    ),
  };
  checkParts(pipeline);
  return pipeline;
}

/** Parts that are sound each for itself may still not belong together. */
function checkParts({ path, unet, vae, textEncoder, tokenizer }: Pipeline): void {
  const misfit = (message: string) => {
    throw new InputError(`model folder ${path}: ${message}. Do these parts belong to one model?`);
  };
  if (unet.inChannels !== vae.latentChannels || unet.outChannels !== vae.latentChannels) {
    misfit(
      `the U-Net goes from ${unet.inChannels} to ${unet.outChannels} channels, but the VAE's latents have ${vae.latentChannels}`,
    );
  }
  if (unet.crossAttentionDim !== textEncoder.hiddenSize) {
    misfit(
      `the U-Net attends to ${unet.crossAttentionDim} features, but the text encoder gives ${textEncoder.hiddenSize}`,
    );
  }
  if (tokenizer.vocabularySize > textEncoder.vocabSize || tokenizer.maxLength > textEncoder.maxPositions) {
    misfit(
      `the tokenizer gives ${tokenizer.maxLength} ids below ${tokenizer.vocabularySize}, but the text encoder takes at most ${textEncoder.maxPositions} below ${textEncoder.vocabSize}`,
    );
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
        `sampling.${name}: the model in ${pipeline.path} does not say its size (unet/config.json has no sample_size); give it in pixels`,
      );
    }
    if (wanted % unit !== 0) {
      const near = Math.max(1, Math.round(wanted / unit)) * unit;
      throw new InputError(
        `sampling.${name}: ${wanted} pixels is not a multiple of ${unit}, which this model needs; try ${near}`,
      );
    }
    return wanted / factor;
  };
  const [trainedHeight, trainedWidth] = pipeline.unet.sampleSize ?? [];
  return { height: side("height", height, trainedHeight), width: side("width", width, trainedWidth) };
}

/** A warning for each prompt that is longer than the text encoder reads. */
export function promptWarnings({ tokenizer }: Pipeline, prompts: Iterable<string>): string[] {
  return truncationWarnings(tokenizer, prompts, "the text encoder");
}
