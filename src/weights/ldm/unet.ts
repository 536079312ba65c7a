/**
 * The U-Net of the original Stable Diffusion code (UNetModel in openaimodel.py). It has one list of input blocks and
 * one of output blocks, where diffusers has a block for each level. The levels are derived from the tensors in the
 * lists.
 */
import { type ErrorFacts, InputError } from "../../errors/index.js";
import { extentOf, shapeOf, type WeightSource } from "../source.js";
import { type Layer, leftOver, type Module } from "./rename.js";

const ROOT = "model.diffusion_model";

const RESNET: readonly Layer[] = [
  { from: "in_layers.0", to: "norm1" },
  { from: "in_layers.2", to: "conv1" },
  { from: "emb_layers.1", to: "time_emb_proj" },
  { from: "out_layers.0", to: "norm2" },
  { from: "out_layers.3", to: "conv2" },
  { from: "skip_connection", to: "conv_shortcut", optional: true },
];
const DOWNSAMPLER: readonly Layer[] = [{ from: "op", to: "conv" }];
const UPSAMPLER: readonly Layer[] = [{ from: "conv", to: "conv" }];
const ENDS: readonly Layer[] = [
  { from: "time_embed.0", to: "time_embedding.linear_1" },
  { from: "time_embed.2", to: "time_embedding.linear_2" },
  { from: "input_blocks.0.0", to: "conv_in" },
  { from: "out.0", to: "conv_norm_out" },
  { from: "out.2", to: "conv_out" },
];
/** The embedding of SDXL's additional conditioning: the pooled prompt and the image sizes. */
const ADDED: readonly Layer[] = [
  { from: "label_emb.0.0", to: "add_embedding.linear_1" },
  { from: "label_emb.0.2", to: "add_embedding.linear_2" },
];

export interface LdmUnet {
  readonly modules: readonly Module[];
  /** From the highest resolution to the lowest. */
  readonly levels: readonly LdmLevel[];
  readonly inChannels: number;
  readonly outChannels: number;
  readonly crossAttentionDim: number;
  readonly useLinearProjection: boolean;
  /** Features of the pooled prompt and the sizes together; undefined if the U-Net does not take them. */
  readonly addedFeatures: number | undefined;
}

interface LdmLevel {
  readonly channels: number;
  /** ResNet blocks of the down block; the up block has one more. */
  readonly layers: number;
  readonly attendsDown: boolean;
  readonly attendsUp: boolean;
  /** Transformer blocks of each attention; 1 if the level has no attention. */
  readonly transformerLayers: number;
}

/** @throws InputError when a tensor is missing or has too few axes, or the architecture is not supported */
export function readLdmUnet(source: WeightSource): LdmUnet {
  const refuse = (what: string, facts: ErrorFacts): never => {
    throw new InputError(
      "model-unsupported",
      `${source.describe}: ${what}. The supported models are Stable Diffusion 1.x, 2.x and SDXL base.`,
      { path: source.describe, ...facts },
    );
  };
  const has = (name: string) => source.get(`${ROOT}.${name}`) !== undefined;
  const extent = (name: string, axis: number) => extentOf(source, `${ROOT}.${name}`, axis, "the U-Net");
  const isResnet = (module: string) => has(`${module}.in_layers.0.weight`);
  const isTransformer = (module: string) => has(`${module}.proj_in.weight`);

  const modules: Module[] = [{ from: ROOT, to: "", layers: has("label_emb.0.0.weight") ? [...ENDS, ...ADDED] : ENDS }];
  const add = (from: string, to: string, layers?: readonly Layer[]) =>
    modules.push({ from: `${ROOT}.${from}`, to: `${to}.`, ...(layers && { layers }) });

  const depths: { readonly module: string; readonly level: number; readonly depth: number }[] = [];
  const addTransformer = (from: string, to: string, level: number) => {
    let depth = 0;
    while (has(`${from}.transformer_blocks.${depth}.norm1.weight`)) depth++;
    depths.push({ module: from, level, depth });
    add(from, to);
  };

  // Down: a level ends with its downsampler, and the last level with the list.
  const levels: { channels: number; layers: number; down: number; up: number }[] = [];
  let level = { channels: 0, layers: 0, down: 0, up: 0 };
  for (let i = 1; ; i++) {
    const [from, block] = [`input_blocks.${i}`, `down_blocks.${levels.length}`];
    if (has(`${from}.0.op.weight`)) {
      add(`${from}.0`, `${block}.downsamplers.0`, DOWNSAMPLER);
      levels.push(level);
      level = { channels: 0, layers: 0, down: 0, up: 0 };
    } else if (isResnet(`${from}.0`)) {
      level.channels = extent(`${from}.0.out_layers.3.weight`, 0);
      add(`${from}.0`, `${block}.resnets.${level.layers}`, RESNET);
      if (isTransformer(`${from}.1`)) {
        addTransformer(`${from}.1`, `${block}.attentions.${level.layers}`, levels.length);
        level.down++;
      }
      level.layers++;
    } else break;
  }
  levels.push(level);
  const last = levels.length - 1;

  add("middle_block.0", "mid_block.resnets.0", RESNET);
  addTransformer("middle_block.1", "mid_block.attentions.0", last);
  add("middle_block.2", "mid_block.resnets.1", RESNET);

  // Up: one more block per level, and an upsampler after the last block of each level except the highest.
  let output = 0;
  for (const [i, up] of levels.toReversed().entries()) {
    for (let layer = 0; layer <= up.layers; layer++, output++) {
      const [from, block] = [`output_blocks.${output}`, `up_blocks.${i}`];
      add(`${from}.0`, `${block}.resnets.${layer}`, RESNET);
      const attends = isTransformer(`${from}.1`);
      if (attends) {
        addTransformer(`${from}.1`, `${block}.attentions.${layer}`, last - i);
        up.up++;
      }
      if (layer === up.layers && i < last) add(`${from}.${attends ? 2 : 1}`, `${block}.upsamplers.0`, UPSAMPLER);
    }
  }

  // Any other tensor in the blocks would change what they compute.
  for (const part of ["input_blocks", "middle_block", "output_blocks", "label_emb"]) {
    for (const name of leftOver(source, `${ROOT}.${part}.`, modules)) {
      refuse(`the U-Net has a tensor ${name}, which the supported models do not have`, { tensor: name });
    }
  }
  const firstAttention = depths[0]?.module as string;
  return {
    modules,
    levels: levels.map(({ channels, layers, down, up }, i) => {
      const blocks = depths.filter((each) => each.level === i);
      const transformerLayers = blocks[0]?.depth ?? 1;
      const other = blocks.find(({ depth }) => depth !== transformerLayers || depth === 0);
      if (other) {
        const module = `${ROOT}.${other.module}`;
        const difference = `${module} has ${other.depth} transformer blocks, but others of its level ${transformerLayers}`;
        refuse(difference, { module, found: other.depth, expected: transformerLayers });
      }
      if ((down !== 0 && down !== layers) || (up !== 0 && up !== layers + 1)) {
        refuse(`in level ${i} of the U-Net, some blocks have cross-attention and others do not`, { level: i });
      }
      return { channels, layers, attendsDown: down > 0, attendsUp: up > 0, transformerLayers };
    }),
    inChannels: extent("input_blocks.0.0.weight", 1),
    outChannels: extent("out.2.weight", 0),
    crossAttentionDim: extent(`${firstAttention}.transformer_blocks.0.attn2.to_k.weight`, 1),
    useLinearProjection: shapeOf(source, `${ROOT}.${firstAttention}.proj_in.weight`, "the U-Net").length === 2,
    addedFeatures: has("label_emb.0.0.weight") ? extent("label_emb.0.0.weight", 1) : undefined,
  };
}

/**
 * The content that config.json would have in the layout of diffusers. The number of heads and the sample size do not
 * show in any tensor; they depend on the family.
 */
export function unetConfigOf(
  unet: LdmUnet,
  { headsAt, sampleSize }: { headsAt: (channels: number) => number; sampleSize: number },
): Record<string, unknown> {
  const { levels } = unet;
  const kind = (attends: boolean, side: "Down" | "Up") => `${attends ? "CrossAttn" : ""}${side}Block2D`;
  return {
    _class_name: "UNet2DConditionModel",
    sample_size: sampleSize,
    in_channels: unet.inChannels,
    out_channels: unet.outChannels,
    flip_sin_to_cos: true,
    freq_shift: 0,
    down_block_types: levels.map(({ attendsDown }) => kind(attendsDown, "Down")),
    up_block_types: levels.toReversed().map(({ attendsUp }) => kind(attendsUp, "Up")),
    block_out_channels: levels.map(({ channels }) => channels),
    layers_per_block: oneOrAll(levels.map(({ layers }) => layers)),
    transformer_layers_per_block: oneOrAll(levels.map(({ transformerLayers }) => transformerLayers)),
    // The number of heads, despite the name (see models/unet/config.ts).
    attention_head_dim: oneOrAll(levels.map(({ channels }) => headsAt(channels))),
    cross_attention_dim: unet.crossAttentionDim,
    use_linear_projection: unet.useLinearProjection,
    act_fn: "silu",
    norm_num_groups: 32,
    norm_eps: 1e-5,
    ...(unet.addedFeatures !== undefined && {
      addition_embed_type: "text_time",
      addition_time_embed_dim: 256,
      projection_class_embeddings_input_dim: unet.addedFeatures,
    }),
  };
}

function oneOrAll(values: readonly number[]): number | readonly number[] {
  return new Set(values).size === 1 ? (values[0] as number) : values;
}
