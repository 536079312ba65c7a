/**
 * A whole CLIP as OpenCLIP saves it, read as transformers' CLIPModel: `visual.transformer.resblocks.*` and
 * `transformer.resblocks.*` with fused projections, at the top, under `state_dict` or below `module.`, as a training run
 * on several devices leaves it. HPSv2 is published so.
 */
import { InputError } from "../errors/index.js";
import { type Layer, type Module, renamed, transposed } from "./ldm/rename.js";
import { EMBEDDINGS, RESBLOCK } from "./ldm/text.js";
import { fromTensors, merge, type WeightSource, withPrefix } from "./source.js";

export interface OpenClipModel {
  /** As CLIPModel's config.json would say it. */
  readonly config: Record<string, unknown>;
  weights(): Promise<WeightSource>;
}

/** The tensors get this before their names, so that those at the top lie in a module too. */
const ROOT = "clip";

const VISION: readonly Layer[] = [
  { from: "class_embedding", to: "embeddings.class_embedding", tensor: true },
  { from: "positional_embedding", to: "embeddings.position_embedding.weight", tensor: true },
  { from: "conv1.weight", to: "embeddings.patch_embedding.weight", tensor: true },
  // "pre_layrnorm" is how transformers spells it.
  { from: "ln_pre", to: "pre_layrnorm" },
  { from: "ln_post", to: "post_layernorm" },
];

/** OpenCLIP multiplies from the right by [width, features]; a Linear's weight is [features, width]. */
const PROJECTIONS = [
  { from: `${ROOT}.visual.proj`, to: "visual_projection.weight" },
  { from: `${ROOT}.text_projection`, to: "text_projection.weight" },
] as const;

/** Heads have 64 features; vision towers that are wider have 16 wider heads: of 80 in ViT-H, 88 in ViT-g, 104 in ViT-bigG. */
const MOST_VISION_HEADS = 16;

/** Whether the tensors are those of a CLIP in this layout. */
export function isOpenClip(source: WeightSource): boolean {
  return prefixOf(source) !== undefined;
}

export function readOpenClipModel(file: WeightSource): OpenClipModel {
  const prefix = prefixOf(file);
  if (prefix === undefined) {
    const [first] = file.names();
    throw new InputError(
      "file-malformed",
      `${file.describe}: is no CLIP in OpenCLIP's layout: it has no tensor visual.conv1.weight (the first is ${JSON.stringify(first)}). A CLIP in transformers' layout is given as its folder, with config.json.`,
    );
  }
  const source = withPrefix(withoutPrefix(file, prefix), `${ROOT}.`);
  const extent = (name: string, axis: number): number => {
    const found = source.get(`${ROOT}.${name}`)?.shape[axis];
    if (found === undefined)
      throw new InputError("file-malformed", `${file.describe}: is incomplete: ${prefix}${name} is missing.`);
    return found;
  };
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
  // One position is the class token's.
  const side = Math.round(Math.sqrt(extent("visual.positional_embedding", 0) - 1));
  const [visionWidth, textWidth] = [extent("visual.conv1.weight", 0), extent("token_embedding.weight", 1)];
  const tower = (width: number, mostHeads: number, intermediate: number, layers: number) => ({
    hidden_size: width,
    intermediate_size: intermediate,
    num_hidden_layers: layers,
    // No tensor says how many heads there are.
    num_attention_heads: Math.max(1, Math.min(mostHeads, Math.floor(width / 64))),
    hidden_act: "gelu",
    layer_norm_eps: 1e-5,
  });
  return {
    config: {
      projection_dim: extent("text_projection", 1),
      vision_config: {
        ...tower(
          visionWidth,
          MOST_VISION_HEADS,
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
        // OpenCLIP looks for the highest id, which 2 stands for.
        eos_token_id: 2,
      },
    },
    async weights() {
      const turned = new Map();
      for (const { from, to } of PROJECTIONS) {
        const stored = source.get(from);
        if (!stored)
          throw new InputError(
            "file-malformed",
            `${file.describe}: is incomplete: ${from.slice(ROOT.length + 1)} is missing.`,
          );
        turned.set(to, await transposed(stored, `${file.describe}: tensor ${from.slice(ROOT.length + 1)}`));
      }
      return { ...merge(renamed(source, modules), fromTensors(turned)), describe: file.describe };
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
