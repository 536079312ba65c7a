/** Pictures of the user's: any format that sharp reads, as rewards see pictures. */
import sharp from "sharp";
import { InputError } from "../errors/index.js";
import { readFully, withFile } from "../io/files.js";
import type { RgbImage } from "./rgb.js";

const MOST_BYTES = 2 ** 28;
/** Far above what diffusion models draw; a file of a few bytes may claim to hold gigabytes. */
const MOST_PIXELS = 4096 * 4096;

/** The first frame, upright, in sRGB; what is transparent shows white. */
export async function readImage(path: string): Promise<RgbImage> {
  const bytes = await withFile(path, async (file, size) => {
    if (size > MOST_BYTES)
      throw new InputError("image-invalid", `${path}: has ${size} bytes; a picture has at most ${MOST_BYTES}.`);
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
      throw new InputError("image-invalid", `${path}: cannot be read as a picture: ${error.message}`);
    });
  if (info.channels !== 3)
    throw new InputError("image-invalid", `${path}: has ${info.channels} channels after decoding; expected 3`);
  return { width: info.width, height: info.height, pixels: new Uint8Array(data) };
}
