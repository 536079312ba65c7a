/** The VAE of the original Stable Diffusion code (AutoencoderKL in autoencoder.py, Encoder and Decoder in model.py). */
import { extentOf, type WeightSource } from "../source.js";
import type { Layer, Module } from "./rename.js";

const ROOT = "first_stage_model";

const RESNET: readonly Layer[] = [
  { from: "norm1", to: "norm1" },
  { from: "conv1", to: "conv1" },
  { from: "norm2", to: "norm2" },
  { from: "conv2", to: "conv2" },
  { from: "nin_shortcut", to: "conv_shortcut", optional: true },
];
const ATTENTION: readonly Layer[] = [
  { from: "norm", to: "group_norm" },
  { from: "q", to: "to_q", view: "linear" },
  { from: "k", to: "to_k", view: "linear" },
  { from: "v", to: "to_v", view: "linear" },
  { from: "proj_out", to: "to_out.0", view: "linear" },
];
const ENDS: readonly Layer[] = [
  { from: "conv_in", to: "conv_in" },
  { from: "norm_out", to: "conv_norm_out" },
  { from: "conv_out", to: "conv_out" },
];
const SAMPLER: readonly Layer[] = [{ from: "conv", to: "conv" }];
const QUANT: readonly Layer[] = [
  { from: "quant_conv", to: "quant_conv" },
  { from: "post_quant_conv", to: "post_quant_conv" },
];

export interface LdmVae {
  readonly modules: readonly Module[];
  /** From the highest resolution to the lowest. */
  readonly channels: readonly number[];
  /** ResNet blocks per encoder level; a decoder level has one more. */
  readonly layers: number;
  readonly latentChannels: number;
}

/** @throws InputError when a tensor is missing or has too few axes */
export function readLdmVae(source: WeightSource): LdmVae {
  const has = (name: string) => source.get(`${ROOT}.${name}`) !== undefined;
  const extent = (name: string, axis: number) => extentOf(source, `${ROOT}.${name}`, axis, "the VAE");
  const modules: Module[] = [{ from: ROOT, to: "", layers: QUANT }];
  const add = (from: string, to: string, layers: readonly Layer[]) =>
    modules.push({ from: `${ROOT}.${from}`, to: `${to}.`, layers });

  const channels: number[] = [];
  while (has(`encoder.down.${channels.length}.block.0.conv1.weight`)) {
    channels.push(extent(`encoder.down.${channels.length}.block.0.conv1.weight`, 0));
  }
  let layers = 0;
  while (has(`encoder.down.0.block.${layers}.conv1.weight`)) layers++;

  for (const side of ["encoder", "decoder"]) {
    add(side, side, ENDS);
    add(`${side}.mid.block_1`, `${side}.mid_block.resnets.0`, RESNET);
    add(`${side}.mid.attn_1`, `${side}.mid_block.attentions.0`, ATTENTION);
    add(`${side}.mid.block_2`, `${side}.mid_block.resnets.1`, RESNET);
  }
  const last = channels.length - 1;
  for (let i = 0; i <= last; i++) {
    // Both lists are ordered from the highest resolution here. In diffusers, up_blocks are in the order of computation.
    const [down, up] = [`encoder.down_blocks.${i}`, `decoder.up_blocks.${last - i}`];
    for (let j = 0; j < layers; j++) add(`encoder.down.${i}.block.${j}`, `${down}.resnets.${j}`, RESNET);
    for (let j = 0; j <= layers; j++) add(`decoder.up.${i}.block.${j}`, `${up}.resnets.${j}`, RESNET);
    if (i < last) add(`encoder.down.${i}.downsample`, `${down}.downsamplers.0`, SAMPLER);
    if (i > 0) add(`decoder.up.${i}.upsample`, `${up}.upsamplers.0`, SAMPLER);
  }
  return { modules, channels, layers, latentChannels: extent("decoder.conv_in.weight", 1) };
}

/** The content that config.json would have in the layout of diffusers. */
export function vaeConfigOf(vae: LdmVae, { scalingFactor }: { scalingFactor: number }): Record<string, unknown> {
  return {
    _class_name: "AutoencoderKL",
    in_channels: 3,
    out_channels: 3,
    latent_channels: vae.latentChannels,
    down_block_types: vae.channels.map(() => "DownEncoderBlock2D"),
    up_block_types: vae.channels.map(() => "UpDecoderBlock2D"),
    block_out_channels: vae.channels,
    layers_per_block: vae.layers,
    act_fn: "silu",
    norm_num_groups: 32,
    scaling_factor: scalingFactor,
  };
}
