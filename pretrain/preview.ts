import { type ImageRequest, openPipeline, Sampler, sampleImages } from "../src/pipeline/index.js";
import type { Runtime } from "../src/runtime/runtime.js";
import { toFloat32 } from "../src/tensor/host.js";
import { IMAGE_LENGTH } from "./data/render.js";

const SAMPLING = { steps: 20, eta: 0, guidance_scale: 4, height: null, width: null };

/** Generates images [n, 3, 64, 64] in -1 … 1 with the model in a folder and the sampler of this project. */
export async function generateImages(
  runtime: Runtime,
  folder: string,
  requests: readonly ImageRequest[],
  batch = 17,
): Promise<Float32Array> {
  const sampler = await Sampler.compile(runtime, await openPipeline(folder), SAMPLING, { batch });
  const all = new Float32Array(requests.length * IMAGE_LENGTH);
  let at = 0;
  for await (const { images, requests: generated } of sampleImages(sampler, requests, undefined)) {
    const pixels = toFloat32(images).subarray(0, generated.length * IMAGE_LENGTH);
    all.set(
      pixels.map((value) => 2 * value - 1),
      at,
    );
    at += pixels.length;
  }
  await sampler.release();
  return all;
}
