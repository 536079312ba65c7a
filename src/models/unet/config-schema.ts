/** The keys of a UNet2DConditionModel's config.json, their defaults in diffusers and the conditions between them. */
import { z } from "zod";
import { count, depth, only, upTo } from "../../io/config-schema.js";
import { type Activation, activations } from "../../nn/layers.js";

/** Length of `time_ids`: height and width of the original image, top and left of the crop, target height and width. */
export const TIME_IDS = 6;

const DOWN_BLOCKS = ["DownBlock2D", "CrossAttnDownBlock2D"] as const;
const UP_BLOCKS = ["UpBlock2D", "CrossAttnUpBlock2D"] as const;
const MID_BLOCKS = ["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"] as const;
export type DownBlockType = (typeof DOWN_BLOCKS)[number];
export type MidBlockType = (typeof MID_BLOCKS)[number];
export type UpBlockType = (typeof UP_BLOCKS)[number];

/** Height or width of latents. */
const side = upTo(8192);

/** One number for all levels, or a list with one for each level. */
const perLevel = (number: typeof count) =>
  z.union([number, z.array(number)], {
    error: `must be a whole number from 1 to ${number.maxValue}, or a list of one for each level`,
  });

/** Transformer blocks after a ResNet block. For a level without attention, files contain any number, even 0. */
const transformerLayers = z.int().min(0).max(1000);
const transformerLayersPerLevel = z.array(z.union([transformerLayers, z.array(transformerLayers)]));

/** With an odd kernel, a convolution can keep the size of its input. */
const kernel = upTo(63).refine((size) => size % 2 === 1, { error: "must be odd" });

export const unetConfigSchema = z
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
    mid_block_type: z.enum(MID_BLOCKS).nullable().default("UNetMidBlock2DCrossAttn"),
    up_block_types: z
      .array(z.enum(UP_BLOCKS))
      .default(["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]),
    block_out_channels: z.array(count).min(1).max(16).default([320, 640, 1280, 1280]),
    layers_per_block: perLevel(depth).default(2),
    downsample_padding: z.int().min(0).default(1),
    act_fn: z.enum(Object.keys(activations) as Activation[]).default("silu"),
    norm_num_groups: count.default(32),
    norm_eps: z.number().positive().default(1e-5),
    cross_attention_dim: perLevel(count).default(1280),
    transformer_layers_per_block: z
      .union([transformerLayers, transformerLayersPerLevel], {
        error:
          "must be a whole number from 0 to 1000, or a list with one, or a list of one for each layer, for each level",
      })
      .default(1),
    reverse_transformer_layers_per_block: transformerLayersPerLevel.nullish(),
    attention_head_dim: perLevel(count).default(8),
    num_attention_heads: perLevel(count).nullish(),
    use_linear_projection: z.boolean().default(false),
    only_cross_attention: z.union([z.boolean(), z.array(z.boolean())]).default(false),
    resnet_time_scale_shift: z.enum(["default", "scale_shift"]).default("default"),
    time_embedding_dim: count.nullish(),
    conv_in_kernel: kernel.default(3),
    conv_out_kernel: kernel.default(3),
    addition_embed_type: z.literal([null, "text_time"]).default(null),
    addition_time_embed_dim: count.nullish(),
    projection_class_embeddings_input_dim: count.nullish(),
    attention_type: only("default"),
    class_embed_type: only(null),
    class_embeddings_concat: only(false),
    cross_attention_norm: only(null),
    dual_cross_attention: only(false),
    encoder_hid_dim: only(null),
    encoder_hid_dim_type: only(null),
    mid_block_scale_factor: only(1),
    num_class_embeds: only(null),
    resnet_out_scale_factor: only(1),
    resnet_skip_time_act: only(false),
    time_cond_proj_dim: only(null),
    time_embedding_act_fn: only(null),
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
      "cross_attention_dim",
      "attention_head_dim",
      "num_attention_heads",
      "only_cross_attention",
      "transformer_layers_per_block",
      "reverse_transformer_layers_per_block",
    ] as const;
    for (const key of lists) {
      const list = config[key];
      if (Array.isArray(list) && list.length !== levels) {
        fault(key, `${list.length} entries, but block_out_channels has ${levels} levels`);
      }
    }
    if (Array.isArray(config.cross_attention_dim) && new Set(config.cross_attention_dim).size > 1) {
      fault(
        "cross_attention_dim",
        `${config.cross_attention_dim.join(", ")} differ, but all levels attend to the same prompt`,
      );
    }
    const heads = config.num_attention_heads ?? config.attention_head_dim;
    for (const [level, channels] of config.block_out_channels.entries()) {
      if (channels % config.norm_num_groups !== 0) {
        fault("norm_num_groups", `${config.norm_num_groups} groups do not divide ${channels} channels`);
      }
      const attends =
        (level === levels - 1 && config.mid_block_type === "UNetMidBlock2DCrossAttn") ||
        config.down_block_types[level] === "CrossAttnDownBlock2D" ||
        config.up_block_types[levels - 1 - level] === "CrossAttnUpBlock2D";
      const headCount = atLevel(heads, level) ?? 1;
      if (attends && channels % headCount !== 0) {
        const key = config.num_attention_heads ? "num_attention_heads" : "attention_head_dim";
        fault(key, `${headCount} heads do not divide ${channels} channels`);
      }
    }
    transformerLayerFaults(config, fault);
    additionFaults(config, fault);
    if ((config.block_out_channels[0] ?? 0) % 2 !== 0) {
      fault("block_out_channels", "the first must be even, because the timestep has as many sines as cosines");
    }
  });

type Parsed = Pick<
  z.output<typeof unetConfigSchema>,
  | "block_out_channels"
  | "layers_per_block"
  | "transformer_layers_per_block"
  | "reverse_transformer_layers_per_block"
  | "addition_embed_type"
  | "addition_time_embed_dim"
  | "projection_class_embeddings_input_dim"
>;
type Fault = (key: string, message: string) => void;

/**
 * The list of a level has one number for each ResNet block. Up blocks have one more ResNet block than down blocks, so
 * lists for the down blocks require lists for the up blocks.
 */
function transformerLayerFaults(config: Parsed, fault: Fault): void {
  const levels = config.block_out_channels.length;
  const { transformer_layers_per_block: down, reverse_transformer_layers_per_block: up } = config;
  const check = (key: string, list: typeof up, layersOf: (i: number) => number) => {
    for (const [i, depths] of (list ?? []).entries()) {
      const layers = layersOf(i);
      if (Array.isArray(depths) && depths.length !== layers) {
        fault(key, `entry ${i} has ${depths.length} numbers, but the level has ${layers} ResNet blocks`);
      }
    }
  };
  const layersAt = (level: number) => atLevel(config.layers_per_block, level) ?? 0;
  check("transformer_layers_per_block", Array.isArray(down) ? down : null, layersAt);
  check("reverse_transformer_layers_per_block", up, (i) => layersAt(levels - 1 - i) + 1);
  if (Array.isArray(down) && down.some(Array.isArray) && !up) {
    fault(
      "reverse_transformer_layers_per_block",
      "is missing; it is required if transformer_layers_per_block contains lists",
    );
  }
}

function additionFaults(config: Parsed, fault: Fault): void {
  if (config.addition_embed_type === null) return;
  const { addition_time_embed_dim: time, projection_class_embeddings_input_dim: input } = config;
  if (!time || !input) {
    const missing = time ? "projection_class_embeddings_input_dim" : "addition_time_embed_dim";
    fault(missing, 'is missing; it is required with addition_embed_type "text_time"');
    return;
  }
  if (time % 2 !== 0) fault("addition_time_embed_dim", `${time} is odd, but there are as many sines as cosines`);
  if (input <= TIME_IDS * time) {
    const message = `${input} leaves no features for the pooled prompt next to ${TIME_IDS} sizes of ${time} features`;
    fault("projection_class_embeddings_input_dim", message);
  }
}

/** The value of a level, from one value for all levels or a list with one for each. */
export function atLevel<T>(value: T | readonly T[], level: number): T | undefined {
  return Array.isArray(value) ? (value as readonly T[])[level] : (value as T);
}
