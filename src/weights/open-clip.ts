/**
 * Reads a whole CLIP in OpenCLIP's layout as transformers' CLIPModel. The layout has `visual.transformer.resblocks.*`
 * and `transformer.resblocks.*` with fused projections, at the top level, under `state_dict`, or with the prefix
 * `module.` that training on several devices adds. HPSv2 is published in this layout.
 */
import { InputError, quote } from "../errors/index.js";
import { type Layer, type Module, renamed, transposed } from "./ldm/rename.js";
import { EMBEDDINGS, RESBLOCK } from "./ldm/text.js";
import { extentOf, fromTensors, merge, type WeightSource, withPrefix } from "./source.js";

export interface OpenClipModel {
  /** The content that CLIPModel's config.json would have. */
  readonly config: Record<string, unknown>;
  weights(): Promise<WeightSource>;
}

/** A prefix for all names, so that the tensors at the top level belong to a module as well. */
const ROOT = "clip";

const VISION: readonly Layer[] = [
  { from: "class_embedding", to: "embeddings.class_embedding", tensor: true },
  { from: "positional_embedding", to: "embeddings.position_embedding.weight", tensor: true },
  { from: "conv1.weight", to: "embeddings.patch_embedding.weight", tensor: true },
  // transformers spells it "pre_layrnorm".
  { from: "ln_pre", to: "pre_layrnorm" },
  { from: "ln_post", to: "post_layernorm" },
];

/** OpenCLIP computes x @ [width, features]; the weight of a Linear is [features, width]. */
const PROJECTIONS = [
  { from: "visual.proj", to: "visual_projection.weight" },
  { from: "text_projection", to: "text_projection.weight" },
] as const;

/**
 * A head has 64 features, but a vision tower has at most 16 heads: those of ViT-H have 80 features, of ViT-g 88, of
 * ViT-bigG 104.
 */
const MAX_VISION_HEADS = 16;

/** @throws InputError when the layout is another one, or a tensor is missing or has too few axes */
export function readOpenClipModel(file: WeightSource): OpenClipModel {
  const prefix = prefixOf(file);
  if (prefix === undefined) {
    const [first] = file.names();
    throw new InputError(
      "model-unsupported",
      `${file.describe}: is not a CLIP in OpenCLIP's layout: it has no tensor visual.conv1.weight (the first tensor is ` +
        `${quote(first)}). For a CLIP in transformers' layout, give its folder, which has a config.json.`,
      { path: file.describe, missing: "visual.conv1.weight", found: first },
    );
  }
  const source = withPrefix(withoutPrefix(file, prefix), `${ROOT}.`);
  const extent = (name: string, axis: number) => extentOf(file, prefix + name, axis, "a CLIP in OpenCLIP's layout");
  const blocksOf = (tower: string) => {
    let count = 0;
    while (source.get(`${ROOT}.${tower}resblocks.${count}.ln_1.weight`)) count++;
    return count;
  };
  const [visionLayers, textLayers] = [blocksOf("visual.transformer."), blocksOf("transformer.")];
  const blocks = (tower: string, to: string, layers: number) =>
    Array.from(
      { length: layers },
      (_, i): Module => ({
        from: `${ROOT}.${tower}resblocks.${i}`,
        to: `${to}.encoder.layers.${i}.`,
        layers: RESBLOCK,
      }),
    );
  const modules: Module[] = [
    { from: `${ROOT}.visual`, to: "vision_model.", layers: VISION },
    { from: ROOT, to: "", layers: [...EMBEDDINGS, { from: "logit_scale", to: "logit_scale", tensor: true }] },
    ...blocks("visual.transformer.", "vision_model", visionLayers),
    ...blocks("transformer.", "text_model", textLayers),
  ];
  const patch = extent("visual.conv1.weight", 2);
  // One of the positions belongs to the class token.
  const side = Math.round(Math.sqrt(extent("visual.positional_embedding", 0) - 1));
  const [visionWidth, textWidth] = [extent("visual.conv1.weight", 0), extent("token_embedding.weight", 1)];
  const tower = (width: number, maxHeads: number, intermediate: number, layers: number) => ({
    hidden_size: width,
    intermediate_size: intermediate,
    num_hidden_layers: layers,
    // The number of heads does not show in any tensor.
    num_attention_heads: Math.max(1, Math.min(maxHeads, Math.floor(width / 64))),
    hidden_act: "gelu",
    layer_norm_eps: 1e-5,
  });
  return {
    config: {
      projection_dim: extent("text_projection", 1),
      vision_config: {
        ...tower(
          visionWidth,
          MAX_VISION_HEADS,
          extent("visual.transformer.resblocks.0.mlp.c_fc.weight", 0),
          visionLayers,
        ),
        patch_size: patch,
        image_size: side * patch,
      },
      text_config: {
        ...tower(textWidth, Number.POSITIVE_INFINITY, extent("transformer.resblocks.0.mlp.c_fc.weight", 0), textLayers),
        vocab_size: extent("token_embedding.weight", 0),
        max_position_embeddings: extent("positional_embedding", 0),
        // OpenCLIP pools at the highest id, which transformers does when eos_token_id is 2.
        eos_token_id: 2,
      },
    },
    async weights() {
      const projections = new Map();
      for (const { from, to } of PROJECTIONS) projections.set(to, await transposed(file, prefix + from));
      return { ...merge(renamed(source, modules), fromTensors(projections)), describe: file.describe };
    },
  };
}

function prefixOf(source: WeightSource): string | undefined {
  return ["", "module."].find((prefix) => source.get(`${prefix}visual.conv1.weight`) !== undefined);
}

function withoutPrefix(source: WeightSource, prefix: string): WeightSource {
  if (prefix === "") return source;
  return {
    describe: source.describe,
    get: (name) => source.get(prefix + name),
    *names() {
      for (const name of source.names()) if (name.startsWith(prefix)) yield name.slice(prefix.length);
    },
  };
}
