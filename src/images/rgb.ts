/** Converts between 8-bit RGB images and tensors. */
import { float32, type HostTensor, toFloat32 } from "../tensor/host.js";

/** An 8-bit RGB image. `pixels` has 3 · width · height bytes: row by row, with interleaved channels. */
export interface RgbImage {
  readonly width: number;
  readonly height: number;
  readonly pixels: Uint8Array;
}

/** Images [b, 3, h, w] from 0 to 1 → b 8-bit images. */
export function toRgb(images: HostTensor): RgbImage[] {
  const [batch, , height, width] = images.shape as [number, number, number, number];
  const values = toFloat32(images);
  const plane = height * width;
  return Array.from({ length: batch }, (_, image) => {
    const pixels = new Uint8Array(3 * plane);
    for (let channel = 0; channel < 3; channel++) {
      const start = (image * 3 + channel) * plane;
      for (let i = 0; i < plane; i++) pixels[3 * i + channel] = Math.round(255 * (values[start + i] as number));
    }
    return { width, height, pixels };
  });
}

/** 8-bit image → float32 [1, 3, h, w] from 0 to 1. */
export function imageTensor({ width, height, pixels }: RgbImage): HostTensor {
  const plane = width * height;
  const data = new Float32Array(3 * plane);
  for (let i = 0; i < plane; i++) {
    for (let channel = 0; channel < 3; channel++) data[channel * plane + i] = (pixels[3 * i + channel] as number) / 255;
  }
  return float32(data, [1, 3, height, width]);
}
