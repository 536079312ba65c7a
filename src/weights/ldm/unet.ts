/**
 * The U-Net of the original Stable Diffusion code (openaimodel.py's UNetModel): one list of input blocks and one of
 * output blocks, where diffusers counts by level. What the lists hold tells the levels, so nothing is taken for granted.
 */
import { InputError } from "../../errors/index.js";
import type { WeightSource } from "../source.js";
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
/** What SDXL knows beside the text: the pooled prompt and the picture's size. */
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
  /** Features of the pooled prompt and the sizes together; undefined where the U-Net takes neither. */
  readonly addedFeatures: number | undefined;
}

interface LdmLevel {
  readonly channels: number;
  /** ResNet blocks on the way down; one more on the way up. */
  readonly layers: number;
  readonly attendsDown: boolean;
  readonly attendsUp: boolean;
  /** Of each attention block; 1 where the level has none. */
  readonly transformerLayers: number;
}

export function readLdmUnet(source: WeightSource): LdmUnet {
  const refuse = (what: string): never => {
    throw new InputError(
      "file-malformed",
      `${source.describe}: ${what}. Supported are Stable Diffusion 1.x, 2.x and SDXL base.`,
    );
  };
  const shapeOf = (name: string): readonly number[] => {
    const stored = source.get(`${ROOT}.${name}`);
    return stored?.shape ?? refuse(`has no tensor ${ROOT}.${name}`);
  };
  const has = (name: string) => source.get(`${ROOT}.${name}`) !== undefined;
  const extent = (name: string, axis: number) =>
    shapeOf(name)[axis] ?? refuse(`tensor ${ROOT}.${name} has too few axes`);
  const isResnet = (place: string) => has(`${place}.in_layers.0.weight`);
  const isTransformer = (place: string) => has(`${place}.proj_in.weight`);

  const modules: Module[] = [{ from: ROOT, to: "", layers: has("label_emb.0.0.weight") ? [...ENDS, ...ADDED] : ENDS }];
  const add = (from: string, to: string, layers?: readonly Layer[]) =>
    modules.push({ from: `${ROOT}.${from}`, to: `${to}.`, ...(layers && { layers }) });

  const depths: { readonly place: string; readonly level: number; readonly depth: number }[] = [];
  const addTransformer = (from: string, to: string, level: number) => {
    let depth = 0;
    while (has(`${from}.transformer_blocks.${depth}.norm1.weight`)) depth++;
    depths.push({ place: from, level, depth });
    add(from, to);
  };

  // Down: a level ends with its downsampler, the last one with the list.
  const levels: { channels: number; layers: number; down: number; up: number }[] = [];
  let level = { channels: 0, layers: 0, down: 0, up: 0 };
  for (let i = 1; ; i++) {
    const [place, block] = [`input_blocks.${i}`, `down_blocks.${levels.length}`];
    if (has(`${place}.0.op.weight`)) {
      add(`${place}.0`, `${block}.downsamplers.0`, DOWNSAMPLER);
      levels.push(level);
      level = { channels: 0, layers: 0, down: 0, up: 0 };
    } else if (isResnet(`${place}.0`)) {
      level.channels = extent(`${place}.0.out_layers.3.weight`, 0);
      add(`${place}.0`, `${block}.resnets.${level.layers}`, RESNET);
      if (isTransformer(`${place}.1`)) {
        addTransformer(`${place}.1`, `${block}.attentions.${level.layers}`, levels.length);
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

  // Up: one block more a level, and an upsampler behind the last of each level but the highest.
  let output = 0;
  for (const [i, up] of levels.toReversed().entries()) {
    for (let layer = 0; layer <= up.layers; layer++, output++) {
      const [place, block] = [`output_blocks.${output}`, `up_blocks.${i}`];
      add(`${place}.0`, `${block}.resnets.${layer}`, RESNET);
      const attends = isTransformer(`${place}.1`);
      if (attends) {
        addTransformer(`${place}.1`, `${block}.attentions.${layer}`, last - i);
        up.up++;
      }
      if (layer === up.layers && i < last) add(`${place}.${attends ? 2 : 1}`, `${block}.upsamplers.0`, UPSAMPLER);
    }
  }

  // Whatever else takes part in the blocks would change what they compute.
  for (const part of ["input_blocks", "middle_block", "output_blocks", "label_emb"]) {
    for (const name of leftOver(source, `${ROOT}.${part}.`, modules)) {
      refuse(`the U-Net has ${name}, which these models do not have`);
    }
  }
  const firstAttention = depths[0]?.place as string;
  return {
    modules,
    levels: levels.map(({ channels, layers, down, up }, i) => {
      const blocks = depths.filter((each) => each.level === i);
      const transformerLayers = blocks[0]?.depth ?? 1;
      const odd = blocks.find(({ depth }) => depth !== transformerLayers || depth === 0);
      if (odd)
        refuse(`${ROOT}.${odd.place} has ${odd.depth} transformer blocks, others of its level ${transformerLayers}`);
      if ((down !== 0 && down !== layers) || (up !== 0 && up !== layers + 1)) {
        refuse(`in level ${i} of the U-Net some blocks attend to the text and others do not`);
      }
      return { channels, layers, attendsDown: down > 0, attendsUp: up > 0, transformerLayers };
    }),
    inChannels: extent("input_blocks.0.0.weight", 1),
    outChannels: extent("out.2.weight", 0),
    crossAttentionDim: extent(`${firstAttention}.transformer_blocks.0.attn2.to_k.weight`, 1),
    useLinearProjection: shapeOf(`${firstAttention}.proj_in.weight`).length === 2,
    addedFeatures: has("label_emb.0.0.weight") ? extent("label_emb.0.0.weight", 1) : undefined,
  };
}

/** The config.json that diffusers would have. `headsAt` and what follows it lie in no tensor: they are the family's. */
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
    // The number of heads, in spite of its name (see models/unet/config.ts).
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
