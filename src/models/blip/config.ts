import { InputError } from "../../errors/index.js";
import type { WeightSource } from "../../weights/source.js";

/**
 * BLIP (Li et al. 2022, arXiv 2201.12086) in the format of its original code: a ViT under `visual_encoder` and a BERT
 * with cross-attention to it under `text_encoder`. Such a checkpoint has no config.json; the sizes come from the
 * tensors' shapes.
 */
export interface BlipConfig {
  readonly vision: BlipVisionConfig;
  readonly text: BlipTextConfig;
}

export interface BlipVisionConfig {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly patchSize: number;
  readonly imageSize: number;
}

export interface BlipTextConfig {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly vocabSize: number;
  readonly maxPositions: number;
}

/** A bound for damaged files. The largest BLIP has 24 layers. */
const MOST_LAYERS = 1000;

/**
 * Reads the sizes of a BLIP from its tensors. `path` is the prefix of `visual_encoder` and `text_encoder`.
 * @throws InputError `tensor-missing`
 */
export function blipConfigOf(source: WeightSource, path: string): BlipConfig {
  const extent = (name: string, axis: number): number => {
    const tensor = `${path}.${name}`;
    const found = source.get(tensor)?.shape[axis];
    if (found) return found;
    throw new InputError(
      "tensor-missing",
      `${source.describe}: has no tensor ${tensor}. Use a BLIP checkpoint in the format of the original code.`,
      { path: source.describe, tensor },
    );
  };
  const layersOf = (name: (i: number) => string): number => {
    let count = 0;
    while (count < MOST_LAYERS && source.get(`${path}.${name(count)}`)) count++;
    return count;
  };
  const patchSize = extent("visual_encoder.patch_embed.proj.weight", 2);
  const visionWidth = extent("visual_encoder.patch_embed.proj.weight", 0);
  const textWidth = extent("text_encoder.embeddings.word_embeddings.weight", 1);
  return {
    vision: {
      hiddenSize: visionWidth,
      intermediateSize: extent("visual_encoder.blocks.0.mlp.fc1.weight", 0),
      layers: layersOf((i) => `visual_encoder.blocks.${i}.norm1.weight`),
      heads: headsOf(visionWidth),
      patchSize,
      // One of the positions belongs to the class token.
      imageSize: patchSize * Math.round(Math.sqrt(extent("visual_encoder.pos_embed", 1) - 1)),
    },
    text: {
      hiddenSize: textWidth,
      intermediateSize: extent("text_encoder.encoder.layer.0.intermediate.dense.weight", 0),
      layers: layersOf((i) => `text_encoder.encoder.layer.${i}.output.dense.weight`),
      heads: headsOf(textWidth),
      vocabSize: extent("text_encoder.embeddings.word_embeddings.weight", 0),
      maxPositions: extent("text_encoder.embeddings.position_embeddings.weight", 0),
    },
  };
}

/** Every head has 64 features: ViT-B and BERT have 12 heads, ViT-L has 16. */
function headsOf(width: number): number {
  return Math.max(1, Math.floor(width / 64));
}
