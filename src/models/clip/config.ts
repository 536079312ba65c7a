import { z } from "zod";
import { count, depth, parseConfig, upTo } from "../../io/config-schema.js";
import { type Activation, activations } from "../../nn/layers.js";

/** The sizes that both towers of CLIP have. */
export interface ClipTowerConfig {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly activation: Activation;
  readonly layerNormEps: number;
}

export interface ClipTextConfig extends ClipTowerConfig {
  readonly vocabSize: number;
  readonly maxPositions: number;
  readonly eosTokenId: number;
  /** Features of the projected pooled text, if the model has a projection. */
  readonly projectionDim: number;
}

export interface ClipVisionConfig extends ClipTowerConfig {
  readonly imageSize: number;
  readonly patchSize: number;
  readonly channels: number;
}

export interface ClipConfig {
  readonly text: ClipTextConfig;
  readonly vision: ClipVisionConfig;
  readonly projectionDim: number;
}

// transformers omits values that equal its defaults from config.json, so these are the same defaults.
const tower = {
  num_hidden_layers: depth.default(12),
  hidden_act: z.enum(Object.keys(activations) as Activation[]).default("quick_gelu"),
  layer_norm_eps: z.number().positive().default(1e-5),
};

const textSchema = z
  .object({
    ...tower,
    hidden_size: count.default(512),
    intermediate_size: count.default(2048),
    num_attention_heads: count.default(8),
    vocab_size: count.default(49408),
    max_position_embeddings: count.default(77),
    eos_token_id: z.int().min(0).default(49407),
    projection_dim: count.default(512),
  })
  .superRefine(dividesEvenly("num_attention_heads", "hidden_size"));

const visionSchema = z
  .object({
    ...tower,
    hidden_size: count.default(768),
    intermediate_size: count.default(3072),
    num_attention_heads: count.default(12),
    image_size: upTo(4096).default(224),
    patch_size: count.default(32),
    num_channels: z.literal(3).default(3),
  })
  .superRefine(dividesEvenly("num_attention_heads", "hidden_size"))
  .superRefine(dividesEvenly("patch_size", "image_size"));

const clipSchema = z.object({
  text_config: textSchema.prefault({}),
  vision_config: visionSchema.prefault({}),
  projection_dim: count.default(512),
});

/**
 * Parses the config.json of a text encoder (CLIPTextModel, CLIPTextModelWithProjection).
 * @throws InputError `config-invalid`
 */
export function parseClipTextConfig(json: unknown, file = "text_encoder/config.json"): ClipTextConfig {
  return textConfig(parseConfig(textSchema, json, file));
}

/**
 * Parses the config.json of a whole CLIP (CLIPModel).
 * @throws InputError `config-invalid`
 */
export function parseClipConfig(json: unknown, file = "config.json"): ClipConfig {
  const config = parseConfig(clipSchema, json, file);
  const vision = config.vision_config;
  return {
    text: textConfig(config.text_config),
    vision: {
      ...towerConfig(vision),
      imageSize: vision.image_size,
      patchSize: vision.patch_size,
      channels: vision.num_channels,
    },
    projectionDim: config.projection_dim,
  };
}

function textConfig(config: z.output<typeof textSchema>): ClipTextConfig {
  return {
    ...towerConfig(config),
    vocabSize: config.vocab_size,
    maxPositions: config.max_position_embeddings,
    eosTokenId: config.eos_token_id,
    projectionDim: config.projection_dim,
  };
}

function towerConfig(config: z.output<typeof textSchema> | z.output<typeof visionSchema>): ClipTowerConfig {
  return {
    hiddenSize: config.hidden_size,
    intermediateSize: config.intermediate_size,
    layers: config.num_hidden_layers,
    heads: config.num_attention_heads,
    activation: config.hidden_act,
    layerNormEps: config.layer_norm_eps,
  };
}

function dividesEvenly<D extends string, N extends string>(divisor: D, number: N) {
  return (config: Record<D | N, number>, context: z.RefinementCtx) => {
    if (config[number] % config[divisor] === 0) return;
    const message = `${config[divisor]} does not divide ${number} ${config[number]}`;
    context.addIssue({ code: "custom", path: [divisor], message });
  };
}
