import { z } from "zod";
import { type Activation, activations } from "../../nn/layers.js";
import { count, depth, only, parseConfig, upTo } from "../config.js";

/**
 * UNet2DConditionModel's config.json. Per-level lists run from the highest resolution to the lowest, as in the file.
 * `attention_head_dim` is, by an old slip of diffusers that files rely on, the number of heads;
 * `num_attention_heads` overrides it.
 */
export interface UnetConfig {
  /** Latent height and width that the model was trained at, where the file says so. */
  readonly sampleSize: readonly [number, number] | undefined;
  readonly inChannels: number;
  readonly outChannels: number;
  readonly levels: readonly UnetLevel[];
  readonly upBlockTypes: readonly UpBlockType[];
  readonly crossAttentionDim: number;
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
  readonly transformerLayers: number;
}

const DOWN_BLOCKS = ["DownBlock2D", "CrossAttnDownBlock2D"] as const;
const UP_BLOCKS = ["UpBlock2D", "CrossAttnUpBlock2D"] as const;
export type DownBlockType = (typeof DOWN_BLOCKS)[number];
export type UpBlockType = (typeof UP_BLOCKS)[number];

/** Of latents. */
const side = upTo(8192);

/** One number, or one for each level. */
const perLevel = (number: typeof count) =>
  z.union([number, z.array(number)], {
    error: `must be a whole number from 1 to ${number.maxValue}, or a list of one for each level`,
  });

const schema = z
  .object({
    sample_size: z.union([side, z.tuple([side, side])]).nullish(),
    in_channels: count.default(4),
    out_channels: count.default(4),
    center_input_sample: z.boolean().default(false),
    flip_sin_to_cos: z.boolean().default(true),
    freq_shift: z.number().default(0),
    down_block_types: z
      .array(z.enum(DOWN_BLOCKS))
      .default(["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]),
    mid_block_type: z.literal("UNetMidBlock2DCrossAttn").default("UNetMidBlock2DCrossAttn"),
    up_block_types: z
      .array(z.enum(UP_BLOCKS))
      .default(["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]),
    block_out_channels: z.array(count).min(1).max(16).default([320, 640, 1280, 1280]),
    layers_per_block: perLevel(depth).default(2),
    downsample_padding: z.int().min(0).default(1),
    act_fn: z.enum(Object.keys(activations) as Activation[]).default("silu"),
    norm_num_groups: count.default(32),
    norm_eps: z.number().positive().default(1e-5),
    cross_attention_dim: count.default(1280),
    transformer_layers_per_block: perLevel(depth).default(1),
    attention_head_dim: perLevel(count).default(8),
    num_attention_heads: perLevel(count).nullish(),
    use_linear_projection: z.boolean().default(false),
    conv_in_kernel: count.default(3),
    conv_out_kernel: count.default(3),
    addition_embed_type: only(null),
    attention_type: only("default"),
    class_embed_type: only(null),
    cross_attention_norm: only(null),
    dual_cross_attention: only(false),
    encoder_hid_dim: only(null),
    encoder_hid_dim_type: only(null),
    mid_block_only_cross_attention: z.literal([null, false]).optional(),
    mid_block_scale_factor: only(1),
    num_class_embeds: only(null),
    only_cross_attention: only(false),
    resnet_out_scale_factor: only(1),
    resnet_skip_time_act: only(false),
    resnet_time_scale_shift: only("default"),
    reverse_transformer_layers_per_block: only(null),
    time_cond_proj_dim: only(null),
    time_embedding_act_fn: only(null),
    time_embedding_dim: only(null),
    time_embedding_type: only("positional"),
    timestep_post_act: only(null),
  })
  .superRefine((config, context) => {
    const levels = config.block_out_channels.length;
    const fault = (key: string, message: string) => context.addIssue({ code: "custom", path: [key], message });
    const lists = [
      "down_block_types",
      "up_block_types",
      "layers_per_block",
      "attention_head_dim",
      "num_attention_heads",
      "transformer_layers_per_block",
    ] as const;
    for (const key of lists) {
      const list = config[key];
      if (Array.isArray(list) && list.length !== levels) {
        fault(key, `${list.length} entries for the ${levels} levels of block_out_channels`);
      }
    }
    const heads = config.num_attention_heads ?? config.attention_head_dim;
    for (const [level, channels] of config.block_out_channels.entries()) {
      if (channels % config.norm_num_groups !== 0) {
        fault("norm_num_groups", `${config.norm_num_groups} groups do not divide ${channels} channels`);
      }
      // The middle block, at the last level's width, attends whatever the others do.
      const attends =
        level === levels - 1 ||
        config.down_block_types[level] === "CrossAttnDownBlock2D" ||
        config.up_block_types[levels - 1 - level] === "CrossAttnUpBlock2D";
      const headCount = atLevel(heads, level) ?? 1;
      if (attends && channels % headCount !== 0) {
        const key = config.num_attention_heads ? "num_attention_heads" : "attention_head_dim";
        fault(key, `${headCount} heads do not divide ${channels} channels`);
      }
    }
    if ((config.block_out_channels[0] ?? 0) % 2 !== 0) {
      fault("block_out_channels", "the first must be even: it is the sines and cosines of the timestep embedding");
    }
  });

export function parseUnetConfig(json: unknown, file = "unet/config.json"): UnetConfig {
  const config = parseConfig(schema, json, file);
  const heads = config.num_attention_heads ?? config.attention_head_dim;
  const size = config.sample_size;
  return {
    sampleSize: typeof size === "number" ? [size, size] : (size ?? undefined),
    inChannels: config.in_channels,
    outChannels: config.out_channels,
    levels: config.block_out_channels.map((channels, level) => ({
      downBlockType: config.down_block_types[level] as DownBlockType,
      channels,
      layers: atLevel(config.layers_per_block, level) as number,
      heads: atLevel(heads, level) as number,
      transformerLayers: atLevel(config.transformer_layers_per_block, level) as number,
    })),
    upBlockTypes: config.up_block_types,
    crossAttentionDim: config.cross_attention_dim,
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

function atLevel(value: number | readonly number[], level: number): number | undefined {
  return typeof value === "number" ? value : value[level];
}
