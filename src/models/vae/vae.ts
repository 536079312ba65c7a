import type { Value } from "../../graph/value.js";
import { conv2d, groupNorm, linear } from "../../nn/layers.js";
import type { Scope } from "../../nn/scope.js";
import { add, attention, clip, reshape, silu, slice, transpose } from "../../ops/index.js";
import { showShape } from "../../tensor/shape.js";
import { downsample, type ResnetOptions, resnetBlock, upsample } from "../resnet.js";
import { type VaeConfig, vaeFactor } from "./config.js";

/**
 * AutoencoderKL (Kingma & Welling 2013; Rombach et al. 2022). The latents here are not multiplied by `scalingFactor`.
 */

const EPSILON = 1e-6;

/** pixels [b, 3, h, w] in -1 … 1 → the posterior's mean and log variance, both [b, latentChannels, h/f, w/f] */
export function encode(scope: Scope, config: VaeConfig, pixels: Value): { mean: Value; logvar: Value } {
  const factor = vaeFactor(config);
  const [, , height = 0, width = 0] = pixels.shape;
  if (height % factor !== 0 || width % factor !== 0) {
    throw new TypeError(`vae: pixels ${showShape(pixels.shape)} must have a height and width divisible by ${factor}`);
  }
  const { latentChannels, blockOutChannels: channels } = config;
  const resnet = resnetOptions(config);
  const encoder = scope.at("encoder");

  let h = conv2d(encoder.at("conv_in"), pixels, { outChannels: channels[0] as number, kernel: 3, padding: 1 });
  for (const [level, outChannels] of channels.entries()) {
    const block = encoder.at("down_blocks").at(level);
    for (let layer = 0; layer < config.layersPerBlock; layer++) {
      h = resnetBlock(block.at("resnets").at(layer), h, outChannels, resnet);
    }
    if (level < channels.length - 1) h = downsample(block.at("downsamplers").at(0), h, 0);
  }
  h = midBlock(encoder.at("mid_block"), h, config);
  h = silu(groupNorm(encoder.at("conv_norm_out"), h, config.normNumGroups, EPSILON));
  h = conv2d(encoder.at("conv_out"), h, { outChannels: 2 * latentChannels, kernel: 3, padding: 1 });
  if (config.useQuantConv) h = conv2d(scope.at("quant_conv"), h, { outChannels: 2 * latentChannels, kernel: 1 });

  return {
    mean: slice(h, 1, [0, latentChannels]),
    logvar: clip(slice(h, 1, [latentChannels, 2 * latentChannels]), -30, 20),
  };
}

/** latents [b, latentChannels, h, w], already divided by `scalingFactor` → pixels [b, 3, fh, fw], about -1 … 1 */
export function decode(scope: Scope, config: VaeConfig, latents: Value): Value {
  const channels = config.blockOutChannels.toReversed();
  const resnet = resnetOptions(config);
  const decoder = scope.at("decoder");

  let h = latents;
  if (config.usePostQuantConv)
    h = conv2d(scope.at("post_quant_conv"), h, { outChannels: config.latentChannels, kernel: 1 });
  h = conv2d(decoder.at("conv_in"), h, { outChannels: channels[0] as number, kernel: 3, padding: 1 });
  h = midBlock(decoder.at("mid_block"), h, config);
  for (const [level, outChannels] of channels.entries()) {
    const block = decoder.at("up_blocks").at(level);
    for (let layer = 0; layer < config.layersPerBlock + 1; layer++) {
      h = resnetBlock(block.at("resnets").at(layer), h, outChannels, resnet);
    }
    if (level < channels.length - 1) h = upsample(block.at("upsamplers").at(0), h);
  }
  h = silu(groupNorm(decoder.at("conv_norm_out"), h, config.normNumGroups, EPSILON));
  return conv2d(decoder.at("conv_out"), h, { outChannels: config.outChannels, kernel: 3, padding: 1 });
}

/** UNetMidBlock2D: x [b, c, h, w] → same shape */
function midBlock(scope: Scope, x: Value, config: VaeConfig): Value {
  const channels = x.shape[1] as number;
  const resnet = resnetOptions(config);
  let h = resnetBlock(scope.at("resnets").at(0), x, channels, resnet);
  if (config.midBlockAddAttention) h = imageAttention(scope.at("attentions").at(0), h, config.normNumGroups);
  return resnetBlock(scope.at("resnets").at(1), h, channels, resnet);
}

/** Self-attention with one head over all positions of an image: x [b, c, h, w] → same shape */
function imageAttention(scope: Scope, x: Value, groups: number): Value {
  const [batch, channels, height, width] = x.shape as [number, number, number, number];
  // Checkpoints from before diffusers 0.15 use other names, among them that of Stable Diffusion 1.5.
  const [q, k, v, out] = scope.has("query.weight")
    ? (["query", "key", "value", "proj_attn"] as const)
    : (["to_q", "to_k", "to_v", "to_out.0"] as const);
  const normalized = groupNorm(scope.at("group_norm"), x, groups, EPSILON);
  const tokens = transpose(reshape(normalized, [batch, channels, height * width]), [0, 2, 1]);
  const query = linear(scope.at(q), tokens, channels);
  const key = linear(scope.at(k), tokens, channels);
  const value = linear(scope.at(v), tokens, channels);
  const mixed = linear(scope.at(out), attention(query, key, value, 1), channels);
  return add(reshape(transpose(mixed, [0, 2, 1]), x.shape), x);
}

function resnetOptions(config: VaeConfig): ResnetOptions {
  return { groups: config.normNumGroups, epsilon: EPSILON, activation: config.activation };
}
