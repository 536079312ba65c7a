/** The text encoders of single files, in their two layouts: transformers' CLIP and OpenCLIP. */
import { extentOf, fromTensors, merge, type WeightSource } from "../source.js";
import { type Layer, type Module, renamed, transposed } from "./rename.js";

export interface LdmText {
  readonly config: Record<string, unknown>;
  weights(): Promise<WeightSource>;
}

/** Reads transformers' CLIPTextModel below `prefix`: the CLIP ViT-L/14 of SD 1.x and SDXL. */
export function readClip(source: WeightSource, prefix: string): LdmText {
  // Some merged checkpoints lack the level `text_model`.
  const level = source.get(`${prefix}.text_model.embeddings.token_embedding.weight`) ? "text_model" : undefined;
  const model = level ? `${prefix}.${level}` : prefix;
  const { extent, count } = reader(source);
  // embeddings.position_ids is left out: it holds only the numbers from 0.
  const parts = ["embeddings.token_embedding", "embeddings.position_embedding", "encoder", "final_layer_norm"];
  const modules = parts.map((part): Module => ({ from: `${model}.${part}`, to: `text_model.${part}.` }));
  return {
    config: textConfig({
      width: extent(`${model}.embeddings.token_embedding.weight`, 1),
      vocabulary: extent(`${model}.embeddings.token_embedding.weight`, 0),
      positions: extent(`${model}.embeddings.position_embedding.weight`, 0),
      intermediate: extent(`${model}.encoder.layers.0.mlp.fc1.weight`, 0),
      layers: count((i) => `${model}.encoder.layers.${i}.mlp.fc1.weight`),
      activation: "quick_gelu",
    }),
    weights: async () => renamed(source, modules),
  };
}

/** The embeddings and the final norm of OpenCLIP's text tower, under transformers' names. */
export const EMBEDDINGS: readonly Layer[] = [
  { from: "token_embedding.weight", to: "text_model.embeddings.token_embedding.weight", tensor: true },
  { from: "positional_embedding", to: "text_model.embeddings.position_embedding.weight", tensor: true },
  { from: "ln_final", to: "text_model.final_layer_norm" },
];
/** A block of OpenCLIP's text or vision tower, under transformers' names. */
export const RESBLOCK: readonly Layer[] = [
  { from: "ln_1", to: "layer_norm1" },
  { from: "ln_2", to: "layer_norm2" },
  { from: "mlp.c_fc", to: "mlp.fc1" },
  { from: "mlp.c_proj", to: "mlp.fc2" },
  { from: "attn.out_proj", to: "self_attn.out_proj" },
  ...(["q", "k", "v"] as const).flatMap((which, third): Layer[] =>
    ["weight", "bias"].map((parameter) => ({
      from: `attn.in_proj_${parameter}`,
      to: `self_attn.${which}_proj.${parameter}`,
      tensor: true,
      view: { third: third as 0 | 1 | 2 },
    })),
  ),
];

/**
 * Reads OpenCLIP's text tower below `prefix`.
 *
 * SD 2.x was trained on the hidden state before the last block (`penultimate`), so that block is left out, as it is in
 * the folders of diffusers. SDXL keeps it, together with the projection of the pooled state.
 */
export function readOpenClip(source: WeightSource, prefix: string, { penultimate }: { penultimate: boolean }): LdmText {
  const { extent, count } = reader(source);
  const layers = count((i) => `${prefix}.transformer.resblocks.${i}.ln_1.weight`) - (penultimate ? 1 : 0);
  const blocks = Array.from(
    { length: layers },
    (_, i): Module => ({
      from: `${prefix}.transformer.resblocks.${i}`,
      to: `text_model.encoder.layers.${i}.`,
      layers: RESBLOCK,
    }),
  );
  const modules = [{ from: prefix, to: "", layers: EMBEDDINGS }, ...blocks];
  const projection = `${prefix}.text_projection`;
  return {
    config: {
      ...textConfig({
        width: extent(`${prefix}.token_embedding.weight`, 1),
        vocabulary: extent(`${prefix}.token_embedding.weight`, 0),
        positions: extent(`${prefix}.positional_embedding`, 0),
        intermediate: extent(`${prefix}.transformer.resblocks.0.mlp.c_fc.weight`, 0),
        layers,
        activation: "gelu",
      }),
      ...(!penultimate && { projection_dim: extent(projection, 1) }),
    },
    async weights() {
      const named = renamed(source, modules);
      if (penultimate || !source.get(projection)) return named;
      // OpenCLIP computes x @ [width, features]; the weight of a Linear is [features, width].
      const matrix = await transposed(source, projection);
      return { ...merge(named, fromTensors(new Map([["text_projection.weight", matrix]]))), describe: named.describe };
    },
  };
}

function reader(source: WeightSource) {
  return {
    extent: (name: string, axis: number) => extentOf(source, name, axis, "the text encoder"),
    count(name: (i: number) => string): number {
      let i = 0;
      while (source.get(name(i))) i++;
      return i;
    },
  };
}

function textConfig(tower: {
  width: number;
  vocabulary: number;
  positions: number;
  intermediate: number;
  layers: number;
  activation: string;
}): Record<string, unknown> {
  return {
    hidden_size: tower.width,
    intermediate_size: tower.intermediate,
    num_hidden_layers: tower.layers,
    // A head has 64 features in every CLIP that Stable Diffusion uses; they have 12, 16 and 20 heads.
    num_attention_heads: Math.max(1, Math.floor(tower.width / 64)),
    hidden_act: tower.activation,
    layer_norm_eps: 1e-5,
    vocab_size: tower.vocabulary,
    max_position_embeddings: tower.positions,
    // Both CLIPs pool at the highest id, which transformers does when eos_token_id is 2.
    eos_token_id: 2,
  };
}
