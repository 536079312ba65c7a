/** The configuration that a U-Net is built from, parsed from the config.json of a UNet2DConditionModel. */
import { parseConfig } from "../../io/config-schema.js";
import type { Activation } from "../../nn/layers.js";
import {
  atLevel,
  type DownBlockType,
  type MidBlockType,
  TIME_IDS,
  type UpBlockType,
  unetConfigSchema,
} from "./config-schema.js";

export { TIME_IDS };

/**
 * The config.json of a UNet2DConditionModel. Lists by level run from the highest resolution to the lowest, as in the
 * file. `attention_head_dim` is the number of heads, by an old mistake of diffusers that files rely on.
 * `num_attention_heads` overrides it.
 */
export interface UnetConfig {
  /** Height and width of the latents in training; undefined if the file does not contain them. */
  readonly sampleSize: readonly [number, number] | undefined;
  readonly inChannels: number;
  readonly outChannels: number;
  readonly levels: readonly UnetLevel[];
  /** Null if there is no mid block, as in distilled models. */
  readonly midBlockType: MidBlockType | null;
  readonly upBlockTypes: readonly UpBlockType[];
  readonly crossAttentionDim: number;
  readonly timeEmbeddingDim: number;
  /** Stable Diffusion XL adds an embedding of the pooled prompt and of image sizes to the time embedding. */
  readonly addition: UnetAddition | undefined;
  /** ResNet blocks scale and shift by the time embedding (`scale_shift`) instead of adding it. */
  readonly timeScaleShift: boolean;
  readonly normNumGroups: number;
  readonly normEps: number;
  readonly activation: Activation;
  readonly useLinearProjection: boolean;
  readonly flipSinToCos: boolean;
  readonly freqShift: number;
  readonly downsamplePadding: number;
  readonly centerInputSample: boolean;
  readonly convInKernel: number;
  readonly convOutKernel: number;
}

export interface UnetLevel {
  readonly downBlockType: DownBlockType;
  readonly channels: number;
  readonly layers: number;
  readonly heads: number;
  /** Transformer blocks after each ResNet block: `layers` numbers for the down block, one more for the up block. */
  readonly transformerLayers: { readonly down: readonly number[]; readonly up: readonly number[] };
  /** Both attentions of each transformer block attend to the prompt; there is no self-attention. */
  readonly onlyCrossAttention: boolean;
}

/** `addition_embed_type: text_time` (Podell et al. 2024, arXiv 2307.01952, section 2.2). */
export interface UnetAddition {
  /** Number of features of the pooled prompt. */
  readonly pooledFeatures: number;
  /** Number of sines and cosines of each number in `time_ids`. */
  readonly timeFeatures: number;
}

/**
 * Parses the config.json of a UNet2DConditionModel. `file` names it in messages.
 * @throws InputError `config-invalid`
 */
export function parseUnetConfig(json: unknown, file = "unet/config.json"): UnetConfig {
  const config = parseConfig(unetConfigSchema, json, file);
  const heads = config.num_attention_heads ?? config.attention_head_dim;
  const size = config.sample_size;
  const channels = config.block_out_channels;
  const { transformer_layers_per_block: depths, reverse_transformer_layers_per_block: reverseDepths } = config;
  const timeFeatures = config.addition_time_embed_dim ?? 0;
  return {
    sampleSize: typeof size === "number" ? [size, size] : (size ?? undefined),
    inChannels: config.in_channels,
    outChannels: config.out_channels,
    levels: channels.map((width, level) => {
      const layers = atLevel(config.layers_per_block, level) as number;
      const down = atLevel(depths, level) as number | number[];
      return {
        downBlockType: config.down_block_types[level] as DownBlockType,
        channels: width,
        layers,
        heads: atLevel(heads, level) as number,
        transformerLayers: {
          down: eachLayer(down, layers),
          up: eachLayer(reverseDepths?.[channels.length - 1 - level] ?? down, layers + 1),
        },
        onlyCrossAttention: atLevel(config.only_cross_attention, level) as boolean,
      };
    }),
    midBlockType: config.mid_block_type,
    upBlockTypes: config.up_block_types,
    crossAttentionDim: atLevel(config.cross_attention_dim, 0) as number,
    timeEmbeddingDim: config.time_embedding_dim ?? 4 * (channels[0] as number),
    addition:
      config.addition_embed_type === null
        ? undefined
        : {
            pooledFeatures: (config.projection_class_embeddings_input_dim ?? 0) - TIME_IDS * timeFeatures,
            timeFeatures,
          },
    timeScaleShift: config.resnet_time_scale_shift === "scale_shift",
    normNumGroups: config.norm_num_groups,
    normEps: config.norm_eps,
    activation: config.act_fn,
    useLinearProjection: config.use_linear_projection,
    flipSinToCos: config.flip_sin_to_cos,
    freqShift: config.freq_shift,
    downsamplePadding: config.downsample_padding,
    centerInputSample: config.center_input_sample,
    convInKernel: config.conv_in_kernel,
    convOutKernel: config.conv_out_kernel,
  };
}

function eachLayer(value: number | readonly number[], layers: number): readonly number[] {
  return typeof value === "number" ? new Array<number>(layers).fill(value) : value;
}
