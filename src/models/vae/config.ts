import { z } from "zod";
import { count, depth, only, parseConfig } from "../../io/config-schema.js";
import { type Activation, activations } from "../../nn/layers.js";

/** The config.json of an AutoencoderKL. Lists run from the highest resolution to the lowest. */
export interface VaeConfig {
  readonly inChannels: number;
  readonly outChannels: number;
  readonly latentChannels: number;
  readonly blockOutChannels: readonly number[];
  /** The number of ResNet blocks per level of the encoder. The decoder has one more. */
  readonly layersPerBlock: number;
  readonly normNumGroups: number;
  /** The activation of the ResNet blocks. Before their last convolution, encoder and decoder always use SiLU. */
  readonly activation: Activation;
  /** The encoder's latents are multiplied by this for the U-Net, and divided by it for the decoder. */
  readonly scalingFactor: number;
  readonly midBlockAddAttention: boolean;
  readonly useQuantConv: boolean;
  readonly usePostQuantConv: boolean;
}

const schema = z
  .object({
    // Only RGB images are supported.
    in_channels: z.literal(3).default(3),
    out_channels: z.literal(3).default(3),
    latent_channels: count.default(4),
    down_block_types: z.array(z.literal("DownEncoderBlock2D")).min(1).default(["DownEncoderBlock2D"]),
    up_block_types: z.array(z.literal("UpDecoderBlock2D")).min(1).default(["UpDecoderBlock2D"]),
    block_out_channels: z.array(count).min(1).default([64]),
    layers_per_block: depth.default(1),
    act_fn: z.enum(Object.keys(activations) as Activation[]).default("silu"),
    norm_num_groups: count.default(32),
    scaling_factor: z.number().positive().default(0.18215),
    mid_block_add_attention: z.boolean().default(true),
    use_quant_conv: z.boolean().default(true),
    use_post_quant_conv: z.boolean().default(true),
    shift_factor: only(null),
    latents_mean: only(null),
    latents_std: only(null),
  })
  .superRefine((config, context) => {
    const fault = (key: string, message: string) => context.addIssue({ code: "custom", path: [key], message });
    const levels = config.block_out_channels.length;
    for (const key of ["down_block_types", "up_block_types"] as const) {
      if (config[key].length !== levels) {
        fault(key, `${config[key].length} entries, but block_out_channels has ${levels} levels`);
      }
    }
    for (const channels of config.block_out_channels) {
      if (channels % config.norm_num_groups !== 0) {
        fault("norm_num_groups", `${config.norm_num_groups} groups do not divide ${channels} channels`);
      }
    }
  });

/**
 * Parses the config.json of an AutoencoderKL. `file` names it in messages.
 * @throws InputError `config-invalid`
 */
export function parseVaeConfig(json: unknown, file = "vae/config.json"): VaeConfig {
  const config = parseConfig(schema, json, file);
  return {
    inChannels: config.in_channels,
    outChannels: config.out_channels,
    latentChannels: config.latent_channels,
    blockOutChannels: config.block_out_channels,
    layersPerBlock: config.layers_per_block,
    normNumGroups: config.norm_num_groups,
    activation: config.act_fn,
    scalingFactor: config.scaling_factor,
    midBlockAddAttention: config.mid_block_add_attention,
    useQuantConv: config.use_quant_conv,
    usePostQuantConv: config.use_post_quant_conv,
  };
}

/** The number of pixels per latent along each side. */
export function vaeFactor(config: VaeConfig): number {
  return 2 ** (config.blockOutChannels.length - 1);
}
