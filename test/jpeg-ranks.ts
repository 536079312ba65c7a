/** The reward's estimate of a JPEG's size beside the files that libjpeg writes. */
import sharp from "sharp";
import { input } from "../src/ops/index.js";
import { jpegKilobytes } from "../src/rewards/builtin/jpeg.js";
import type { Runtime } from "../src/runtime/runtime.js";
import { float32, type HostTensor, toFloat32 } from "../src/tensor/host.js";
import { spearman, variedPictures } from "./varied-pictures.js";

export async function rankCorrelation(
  runtime: Runtime,
  { pictures, size, quality }: { readonly pictures: number; readonly size: number; readonly quality: number },
) {
  const pixels = variedPictures(pictures, size);
  const images = input([pictures, 3, size, size]);
  const graph = { name: "jpeg", inputs: { images }, outputs: { kilobytes: jpegKilobytes(images, { quality }) } };
  const program = await runtime.compile(graph);
  const { kilobytes } = await program.run({ images: float32(pixels, images.shape) });
  await program.release();
  const files: number[] = [];
  const plane = size * size;
  for (let i = 0; i < pictures; i++) {
    const own = pixels.subarray(i * 3 * plane, (i + 1) * 3 * plane);
    const interleaved = Uint8Array.from({ length: 3 * plane }, (_, at) =>
      Math.round(255 * (own[(at % 3) * plane + Math.floor(at / 3)] as number)),
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
