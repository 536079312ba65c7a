/** Pictures of the user's: any format that sharp reads, as rewards see pictures. */
import sharp from "sharp";
import { InputError } from "../tensor/errors.js";
import { float32, type HostTensor } from "../tensor/host.js";
import { readFully, withFile } from "../weights/files.js";

/** 8-bit RGB, interleaved. */
export interface DecodedPicture {
  readonly width: number;
  readonly height: number;
  readonly pixels: Uint8Array;
}

const MOST_BYTES = 2 ** 28;
/** Far above what diffusion models draw; a file of a few bytes may claim to hold gigabytes. */
const MOST_PIXELS = 4096 * 4096;

/** The first frame, upright, in sRGB; what is transparent shows white. */
export async function readPicture(path: string): Promise<DecodedPicture> {
  const bytes = await withFile(path, async (file, size) => {
    if (size > MOST_BYTES) throw new InputError(`${path}: has ${size} bytes; a picture has at most ${MOST_BYTES}.`);
    const content = Buffer.alloc(size);
    await readFully(file, content, 0, path);
    return content;
  });
  const { data, info } = await sharp(bytes, { limitInputPixels: MOST_PIXELS, failOn: "error" })
    .autoOrient()
    .toColourspace("srgb")
    .flatten({ background: "#fff" })
    .removeAlpha()
    .raw({ depth: "uchar" })
    .toBuffer({ resolveWithObject: true })
    .catch((error: Error) => {
      throw new InputError(`${path}: cannot be read as a picture: ${error.message}`);
    });
  if (info.channels !== 3) throw new InputError(`${path}: has ${info.channels} channels after decoding; expected 3`);
  return { width: info.width, height: info.height, pixels: new Uint8Array(data) };
}

/** → [1, 3, h, w] in 0 … 1 */
export function pictureTensor({ width, height, pixels }: DecodedPicture): HostTensor {
  const plane = width * height;
  const data = new Float32Array(3 * plane);
  for (let i = 0; i < plane; i++) {
    for (let channel = 0; channel < 3; channel++) data[channel * plane + i] = (pixels[3 * i + channel] as number) / 255;
  }
  return float32(data, [1, 3, height, width]);
}
