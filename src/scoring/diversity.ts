/**
 * Image diversity: the mean of 1 − cos over all pairs of images of the same prompt, between their CLIP image embeddings. It falls
 * towards 0 if every seed gives the same image, which is the most common sign of over-optimization (Jena et al. 2024, arXiv
 * 2409.06493). The mean of a reward cannot show it.
 */
import type { Graph } from "../graph/graph.js";
import { input } from "../ops/index.js";
import { embedImages, type OpenedClip } from "../rewards/index.js";
import type { Program, Runtime } from "../runtime/runtime.js";
import { type HostTensor, toFloat32 } from "../tensor/host.js";
import type { ImageShape } from "./graphs.js";

/** images [b, 3, h, w] in 0 … 1 → embeddings [b, d], normalized to length 1 */
export function embeddingGraph(clip: OpenedClip, shape: ImageShape): Graph {
  const images = input(shape);
  return { name: "CLIP image embedding", inputs: { images }, outputs: { embeddings: embedImages(clip, images) } };
}

/** Embeds batches of images, all of the same shape. */
export class ImageEmbedder {
  private program: Promise<Program> | undefined;

  constructor(
    private readonly runtime: Runtime,
    private readonly clip: OpenedClip,
  ) {}

  /** images [b, 3, h, w] → b embeddings */
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
 * For each image, its mean distance to the other images of its prompt, or 0 if there are none. The mean over the images of a
 * prompt equals the mean over its pairs.
 */
export function distances(prompts: readonly string[], embeddings: readonly Float32Array[]): number[] {
  return prompts.map((prompt, i) => {
    const others = [...prompts.keys()].filter((j) => j !== i && prompts[j] === prompt);
    const own = embeddings[i] as Float32Array;
    const sum = others.reduce((total, j) => total + 1 - cosine(own, embeddings[j] as Float32Array), 0);
    return sum / Math.max(1, others.length);
  });
}

/** The vectors have length 1. */
function cosine(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + value * (b[i] as number), 0);
}
