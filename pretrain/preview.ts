import type { Runtime } from "../src/runtime/runtime.js";
import { toFloat32 } from "../src/tensor/host.js";
import { openPipeline } from "../src/train/pipeline.js";
import { pictureNoise, Sampler, stack } from "../src/train/sampler.js";
import { PICTURE_LENGTH } from "./data/render.js";

export const SAMPLING = { steps: 20, eta: 0, guidance_scale: 4, height: null, width: null };

/** One picture for each prompt and seed, by the product's own sampler: [prompts, 3, 64, 64] in -1 … 1. */
export async function draw(
  runtime: Runtime,
  folder: string,
  pictures: readonly { readonly prompt: string; readonly seed: number }[],
  batch = 17,
): Promise<Float32Array> {
  const pipeline = await openPipeline(folder);
  const sampler = await Sampler.compile(runtime, pipeline, SAMPLING, { batch });
  const all = new Float32Array(pictures.length * PICTURE_LENGTH);
  for (let start = 0; start < pictures.length; start += batch) {
    // The last batch is filled up with repeats, which are not kept.
    const chosen = Array.from({ length: batch }, (_, i) => pictures[Math.min(start + i, pictures.length - 1)] as (typeof pictures)[number]);
    const conditioning = await sampler.condition(chosen.map(({ prompt }) => prompt));
    const noises = chosen.map(({ seed }, i) => pictureNoise(sampler.latentElements, seed, start + i));
    const { final } = await sampler.sample(conditioning, stack(noises.map(({ initial }) => initial)), () => {
      throw new Error("preview: eta is 0, no step asks for noise");
    });
    const images = toFloat32(await sampler.decode(final));
    const kept = Math.min(batch, pictures.length - start) * PICTURE_LENGTH;
    all.set(images.subarray(0, kept).map((value) => 2 * value - 1), start * PICTURE_LENGTH);
  }
  await sampler.release();
  return all;
}
