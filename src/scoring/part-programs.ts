/** The compiled parts of a reward, and their values for a batch of images. */
import type { PartRewards, Reward, RewardPart } from "../rewards/index.js";
import type { Program, Runtime } from "../runtime/runtime.js";
import { float32, type HostTensor, toFloat32 } from "../tensor/host.js";
import type { PartGraph } from "./graphs.js";

export interface PartProgram extends PartGraph {
  readonly program: Program;
}

export async function compileParts(runtime: Runtime, parts: readonly PartGraph[]): Promise<PartProgram[]> {
  return Promise.all(
    parts.map(async (part) => ({ ...part, program: await runtime.compile(part.graph, part.part.reward.weights) })),
  );
}

export interface PartScores {
  /** The weighted sum over the parts, one per image. */
  readonly rewards: Float32Array;
  /** For each part its value of each image; 0 for a prompt that it does not score. */
  readonly values: readonly Float32Array[];
  /** Gradient of the sum of `rewards`, same length as the images; empty if the parts have no gradient. */
  readonly dImages: Float32Array;
}

/** images [b, 3, h, w] and their prompts → the values of all parts. Each part runs on the images that it scores, in its own batches. */
export async function runParts(
  parts: readonly PartProgram[],
  images: HostTensor,
  prompts: readonly string[],
): Promise<PartScores> {
  const pixels = toFloat32(images);
  const each = pixels.length / prompts.length;
  const withGradient = parts.some(({ graph }) => graph.outputs.dImages !== undefined);
  const rewards = new Float32Array(prompts.length);
  const dImages = new Float32Array(withGradient ? pixels.length : 0);
  const values: Float32Array[] = [];
  for (const { part, batch, program } of parts) {
    const own = new Float32Array(prompts.length);
    const scored = [...prompts.keys()].filter((i) => part.appliesTo(prompts[i] as string));
    for (let start = 0; start < scored.length; start += batch) {
      const some = scored.slice(start, start + batch);
      // An incomplete batch is filled with copies of its last image.
      const full = Array.from({ length: batch }, (_, i) => some[Math.min(i, some.length - 1)] as number);
      const rows = new Float32Array(batch * each);
      for (const [at, i] of full.entries()) rows.set(pixels.subarray(i * each, (i + 1) * each), at * each);
      const batchImages = float32(rows, [batch, ...images.shape.slice(1)]);
      const batchPrompts = full.map((i) => prompts[i] as string);
      const { reward } = part;
      const found = await program.run(
        reward.scoreExternally
          ? { given: await externalValues(reward.scoreExternally, batchImages, batchPrompts, some.length) }
          : { ...reward.feeds(batchPrompts), images: batchImages },
      );
      const [value, weighted] = [toFloat32(found.values as HostTensor), toFloat32(found.weighted as HostTensor)];
      const slopes = withGradient ? toFloat32(found.dImages as HostTensor) : undefined;
      for (const [at, i] of some.entries()) {
        own[i] = value[at] as number;
        rewards[i] = (rewards[i] as number) + (weighted[at] as number);
        for (let p = 0; slopes && p < each; p++) {
          dImages[i * each + p] = (dImages[i * each + p] as number) + (slopes[at * each + p] as number);
        }
      }
    }
    values.push(own);
  }
  return { rewards, values, dImages };
}

/** Scores the first `count` images with an external program. The rest of the batch are copies of the last of them. */
async function externalValues(
  score: NonNullable<Reward["scoreExternally"]>,
  images: HostTensor,
  prompts: readonly string[],
  count: number,
): Promise<HostTensor> {
  const [batch, ...rest] = images.shape as [number, ...number[]];
  const some = float32(toFloat32(images).subarray(0, (images.data.length / batch) * count), [count, ...rest]);
  const found = await score(some, prompts.slice(0, count));
  return float32(
    Float32Array.from({ length: batch }, (_, i) => found[Math.min(i, count - 1)] as number),
    [batch],
  );
}

/** The values of each part under its label, with null for prompts that it does not score. */
export function byLabel(
  parts: readonly RewardPart[],
  valuesOf: (i: number) => Float32Array,
  prompts: readonly string[],
): PartRewards {
  return Object.fromEntries(
    parts.map((part, i) => {
      const values = valuesOf(i);
      return [part.label, prompts.map((prompt, at) => (part.appliesTo(prompt) ? (values[at] as number) : null))];
    }),
  );
}
