import { type ImageRequest, openPipeline, Sampler, sampleImages } from "../src/pipeline/index.js";
import type { Runtime } from "../src/runtime/runtime.js";
import { toFloat32 } from "../src/tensor/host.js";
import { PICTURE_LENGTH } from "./data/render.js";

const SAMPLING = { steps: 20, eta: 0, guidance_scale: 4, height: null, width: null };

/** Pictures [n, 3, 64, 64] in -1 … 1 of the model in a folder, by the product's own sampler. */
export async function draw(
  runtime: Runtime,
  folder: string,
  pictures: readonly ImageRequest[],
  batch = 17,
): Promise<Float32Array> {
  const sampler = await Sampler.compile(runtime, await openPipeline(folder), SAMPLING, { batch });
  const all = new Float32Array(pictures.length * PICTURE_LENGTH);
  let at = 0;
  for await (const { images, requests: drawn } of sampleImages(sampler, pictures, undefined)) {
    const kept = toFloat32(images).subarray(0, drawn.length * PICTURE_LENGTH);
    all.set(
      kept.map((value) => 2 * value - 1),
      at,
    );
    at += kept.length;
  }
  await sampler.release();
  return all;
}
