/** Opens a text-to-image model. Its configurations are read and checked; its weights stay in their files. */
import { join } from "node:path";
import { type Prediction, readSchedulerConfig, type SchedulerConfig } from "../diffusion/ddim.js";
import { type ErrorFacts, InputError, quote } from "../errors/index.js";
import { isRecord } from "../io/record.js";
import { type ClipTextConfig, parseClipTextConfig } from "../models/clip/config.js";
import { type ClipTokenizer, openClipTokenizer } from "../models/clip/tokenizer.js";
import { truncationWarnings } from "../models/clip/truncation.js";
import { parseUnetConfig, TIME_IDS, type UnetConfig } from "../models/unet/config.js";
import { parseVaeConfig, type VaeConfig } from "../models/vae/config.js";
import { type Component, type Model, openModelFolder, requireComponent } from "../weights/folder.js";
import { isSingleFile, openSingleFile, type SingleFileOptions } from "../weights/ldm/single-file.js";
import { inputChannels, NOT_TEXT_TO_IMAGE } from "../weights/look/tensors.js";
import { merge, type WeightSource, withPrefix } from "../weights/source.js";

export interface Pipeline {
  /** Absolute path of the folder or file. */
  readonly path: string;
  readonly unet: UnetConfig;
  /** The content of unet/config.json, which a checkpoint of a whole U-Net contains as well. */
  readonly unetJson: unknown;
  readonly vae: VaeConfig;
  /** One in Stable Diffusion 1 and 2. XL has two, and the second also returns the pooled prompt. */
  readonly textEncoders: readonly [TextEncoder] | readonly [TextEncoder, TextEncoder];
  /** Without a negative prompt, the input of the unconditional branch is zeros and not the embedding of an empty prompt. */
  readonly forceZerosForEmptyPrompt: boolean;
  readonly scheduler: SchedulerConfig;
  /** All tensors: `unet.…`, `vae.…`, `text_encoder.…`, `text_encoder_2.…`. */
  readonly weights: WeightSource;
}

export interface TextEncoder {
  /** Prefix of its tensors in the pipeline's weights. */
  readonly name: "text_encoder" | "text_encoder_2";
  readonly config: ClipTextConfig;
  readonly tokenizer: ClipTokenizer;
}

/** Supported schedulers. They differ in how they sample, but not in how the model was trained. */
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
  /** What the U-Net predicts. It replaces `prediction_type` of the model's scheduler. */
  readonly prediction?: Prediction | undefined;
}

/**
 * Opens a folder in the diffusers layout, or a single file in the layout of the original code.
 *
 * @throws InputError if a file is absent, damaged or unsupported, or if the parts do not fit each other
 */
export async function openPipeline(path: string, options: OpenOptions = {}): Promise<Pipeline> {
  return pipelineOf(
    (await isSingleFile(path)) ? await openSingleFile(path, options) : await openModelFolder(path),
    options,
  );
}

/** Reads the configurations of a model, and checks each part and that they fit each other. */
export async function pipelineOf(
  model: Model,
  { prediction, note = () => {} }: Pick<OpenOptions, "prediction" | "note"> = {},
): Promise<Pipeline> {
  if (model.components.has("text_encoder_2") && !model.components.has("text_encoder")) {
    throw new InputError(
      "model-unsupported",
      `model ${model.path}: has text_encoder_2 but no text_encoder, like the refiner of Stable Diffusion XL, which starts from the image of another model. Give the base model.`,
      { path: model.path, component: "text_encoder" },
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
  noteUnusedEmbeddings(pipeline, note);
  return pipeline;
}

/** The model with other U-Net weights, such as those of a run with `trainable: unet`. */
export function withUnet(pipeline: Pipeline, unet: WeightSource | undefined): Pipeline {
  return unet ? { ...pipeline, weights: merge(withPrefix(unet, "unet."), pipeline.weights) } : pipeline;
}

function predicting(schedulerConfig: unknown, prediction: Prediction | undefined): unknown {
  return prediction === undefined || !isRecord(schedulerConfig)
    ? schedulerConfig
    : { ...schedulerConfig, prediction_type: prediction };
}

/** Reads Stable Diffusion XL's option in model_index.json. It is true by default, as in diffusers. */
function forcesZeros({ path, options }: Model): boolean {
  const { force_zeros_for_empty_prompt: found = true } = options;
  if (typeof found === "boolean") return found;
  const file = join(path, "model_index.json");
  throw new InputError(
    "config-invalid",
    `${file}: force_zeros_for_empty_prompt is ${quote(found)}, but must be true or false`,
    { path: file, keys: ["force_zeros_for_empty_prompt"], found: [quote(found)], expected: ["true", "false"] },
  );
}

/** Checks that the parts fit each other: each of them may be valid, but belong to another model. */
function checkParts({ path, unet, vae, textEncoders }: Pipeline): void {
  const misfit = (message: string, facts: ErrorFacts) => {
    throw new InputError("model-mismatch", `model ${path}: ${message}. Do these parts belong to one model?`, {
      path,
      ...facts,
    });
  };
  const use = inputChannels(unet.inChannels, unet.outChannels);
  if (use !== undefined) {
    throw new InputError("model-unsupported", `model ${path}: is ${use}. ${NOT_TEXT_TO_IMAGE}`, {
      path,
      component: "unet",
      found: unet.inChannels,
      expected: vae.latentChannels,
    });
  }
  if (unet.inChannels !== vae.latentChannels || unet.outChannels !== vae.latentChannels) {
    misfit(
      `the U-Net has ${unet.inChannels} input channels and ${unet.outChannels} output channels, but the latents of the VAE have ${vae.latentChannels}`,
      { component: "unet", found: [unet.inChannels, unet.outChannels], expected: vae.latentChannels },
    );
  }
  for (const { name, config, tokenizer } of textEncoders) {
    const component = name.replace("text_encoder", "tokenizer");
    if (tokenizer.vocabularySize > config.vocabSize || tokenizer.maxLength > config.maxPositions) {
      misfit(
        `${component} returns ${tokenizer.maxLength} ids below ${tokenizer.vocabularySize}, but ${name} takes at most ${config.maxPositions} ids below ${config.vocabSize}`,
        {
          component,
          found: [tokenizer.maxLength, tokenizer.vocabularySize],
          limit: [config.maxPositions, config.vocabSize],
        },
      );
    }
  }
  const [first, second] = textEncoders;
  const features = textEncoders.reduce((sum, { config }) => sum + config.hiddenSize, 0);
  if (unet.crossAttentionDim !== features) {
    const encoders = second ? "text encoders together return" : "text encoder returns";
    misfit(`the U-Net expects ${unet.crossAttentionDim} text features, but the ${encoders} ${features}`, {
      component: "unet",
      key: "cross_attention_dim",
      found: unet.crossAttentionDim,
      expected: features,
    });
  }
  if (unet.addition && !second) {
    misfit("the U-Net expects a pooled prompt (addition_embed_type text_time), but there is no text_encoder_2", {
      component: "text_encoder_2",
      key: "addition_embed_type",
      found: "text_time",
    });
  }
  if (!second) return;
  if (!unet.addition) {
    misfit("there is a text_encoder_2, but the U-Net takes no pooled prompt (it has no addition_embed_type)", {
      component: "text_encoder_2",
      key: "addition_embed_type",
      expected: "text_time",
    });
  }
  if (unet.addition?.pooledFeatures !== second.config.projectionDim) {
    const [found, expected] = [unet.addition?.pooledFeatures, second.config.projectionDim];
    misfit(
      `besides ${TIME_IDS} sizes, the U-Net expects ${found} features of the pooled prompt (projection_class_embeddings_input_dim), but text_encoder_2 returns ${expected}`,
      { component: "unet", key: "projection_class_embeddings_input_dim", found, expected },
    );
  }
  if (first.tokenizer.maxLength !== second.tokenizer.maxLength) {
    const [expected, found] = [first.tokenizer.maxLength, second.tokenizer.maxLength];
    misfit(`tokenizer returns ${expected} ids, but tokenizer_2 returns ${found}`, {
      component: "tokenizer_2",
      found,
      expected,
    });
  }
}

/**
 * An encoder with more rows than its tokenizer has tokens was saved after tokens were added, and the tokenizer before. A
 * prompt with such a token would be split into letters.
 */
function noteUnusedEmbeddings({ path, textEncoders }: Pipeline, note: (message: string) => void): void {
  for (const { name, config, tokenizer } of textEncoders) {
    if (tokenizer.vocabularySize >= config.vocabSize) continue;
    const tokens = name.replace("text_encoder", "tokenizer");
    note(
      `model ${path}: ${name} has embeddings of ${config.vocabSize} tokens, but ${tokens} has only ` +
        `${tokenizer.vocabularySize}. Prompts cannot use the others; if a token was added to this model, its ${tokens} lacks ` +
        "added_tokens.json or tokenizer.json",
    );
  }
}

/** A warning for each prompt that has more tokens than the text encoder accepts. */
export function promptWarnings({ textEncoders: [{ tokenizer }] }: Pipeline, prompts: Iterable<string>): string[] {
  return truncationWarnings(tokenizer, prompts, "the text encoder");
}
