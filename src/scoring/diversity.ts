/**
 * Image diversity: how unlike each other the pictures of one prompt are, as the mean of 1 − cos over all pairs of their CLIP
 * image embeddings. It falls towards 0 where every seed gives the same picture, which is how over-optimisation most often
 * shows (Jena et al. 2024, arXiv 2409.06493). A reward's mean cannot show it.
 */
import type { Graph } from "../graph/graph.js";
import { input } from "../ops/index.js";
import { embedImages, type OpenedClip } from "../rewards/towers/clip-model.js";
import type { Program, Runtime } from "../runtime/runtime.js";
import { type HostTensor, toFloat32 } from "../tensor/host.js";

export type ImageShape = readonly [batch: number, channels: number, height: number, width: number];

/** images [b, 3, h, w] in 0 … 1 → embeddings of length 1 [b, d] */
export function embeddingGraph(clip: OpenedClip, shape: ImageShape): Graph {
  const images = input(shape);
  return { name: "CLIP image embedding", inputs: { images }, outputs: { embeddings: embedImages(clip, images) } };
}

/** Embeds pictures, always as many of the same size. */
export class ImageEmbedder {
  private program: Promise<Program> | undefined;

  constructor(
    private readonly runtime: Runtime,
    private readonly clip: OpenedClip,
  ) {}

  /** images [b, 3, h, w] → the embedding of each */
  async embed(images: HostTensor): Promise<Float32Array[]> {
    const graph = () => embeddingGraph(this.clip, images.shape as unknown as ImageShape);
    this.program ??= this.runtime.compile(graph(), this.clip.weights);
    const { embeddings } = await (await this.program).run({ images });
    const { shape } = embeddings as HostTensor;
    const [batch, width] = shape as [number, number];
    const values = toFloat32(embeddings as HostTensor);
    return Array.from({ length: batch }, (_, i) => values.slice(i * width, (i + 1) * width));
  }
}

/**
 * Of each picture the mean distance to the other pictures of its prompt; 0 where there is none. The mean of that over a
 * prompt's pictures is the mean over its pairs.
 */
export function distances(prompts: readonly string[], embeddings: readonly Float32Array[]): number[] {
  return prompts.map((prompt, i) => {
    const others = [...prompts.keys()].filter((j) => j !== i && prompts[j] === prompt);
    const own = embeddings[i] as Float32Array;
    const sum = others.reduce((total, j) => total + 1 - cosine(own, embeddings[j] as Float32Array), 0);
    return sum / Math.max(1, others.length);
  });
}

/** Of vectors of length 1. */
function cosine(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + value * (b[i] as number), 0);
}
