/** Compares the JPEG size that the compressibility reward estimates with the files that libjpeg writes. */
import sharp from "sharp";
import { input } from "../src/ops/index.js";
import { jpegKilobytes } from "../src/rewards/builtin/jpeg.js";
import type { Runtime } from "../src/runtime/runtime.js";
import { float32, type HostTensor, toFloat32 } from "../src/tensor/host.js";
import { spearman, variedImages } from "./varied-images.js";

export async function rankCorrelation(
  runtime: Runtime,
  { count, size, quality }: { readonly count: number; readonly size: number; readonly quality: number },
) {
  const pixels = variedImages(count, size);
  const images = input([count, 3, size, size]);
  const graph = { name: "jpeg", inputs: { images }, outputs: { kilobytes: jpegKilobytes(images, { quality }) } };
  const program = await runtime.compile(graph);
  const { kilobytes } = await program.run({ images: float32(pixels, images.shape) });
  await program.release();
  const files: number[] = [];
  const plane = size * size;
  for (let i = 0; i < count; i++) {
    const image = pixels.subarray(i * 3 * plane, (i + 1) * 3 * plane);
    const interleaved = Uint8Array.from({ length: 3 * plane }, (_, at) =>
      Math.round(255 * (image[(at % 3) * plane + Math.floor(at / 3)] as number)),
    );
    const raw = { width: size, height: size, channels: 3 } as const;
    files.push((await sharp(interleaved, { raw }).jpeg({ quality }).toBuffer()).length);
  }
  return {
    correlation: spearman([...toFloat32(kilobytes as HostTensor)], files),
    smallest: Math.min(...files),
    largest: Math.max(...files),
  };
}
