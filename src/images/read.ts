/** Reads the user's image files, in any format that sharp reads. */
import { InputError } from "../errors/index.js";
import { readFully, withFile } from "../io/files.js";
import type { RgbImage } from "./rgb.js";
import { loadSharp } from "./sharp.js";

const MAX_BYTES = 2 ** 28;
/** Far above the size that diffusion models generate. A file of a few bytes may decode to gigabytes. */
const MAX_PIXELS = 4096 * 4096;

/**
 * Reads the first frame of an image file, rotated upright by its EXIF orientation, in sRGB, on a white background.
 *
 * @throws InputError `file-too-large` or `image-invalid`, or as `withFile` does.
 */
export async function readImage(path: string): Promise<RgbImage> {
  const bytes = await withFile(path, async (file, size) => {
    if (size > MAX_BYTES) {
      throw new InputError(
        "file-too-large",
        `${path}: has ${size} bytes, but an image file may have at most ${MAX_BYTES}. Reduce the image.`,
        { path, found: size, limit: MAX_BYTES },
      );
    }
    const content = Buffer.alloc(size);
    await readFully(file, content, 0, path);
    return content;
  });
  const sharp = await loadSharp();
  const { data, info } = await sharp(bytes, { limitInputPixels: MAX_PIXELS, failOn: "error" })
    .autoOrient()
    .toColourspace("srgb")
    .flatten({ background: "#fff" })
    .removeAlpha()
    .raw({ depth: "uchar" })
    .toBuffer({ resolveWithObject: true })
    .catch((error: Error) => {
      throw new InputError(
        "image-invalid",
        `${path}: cannot be read as an image: ${error.message}. Give a complete image of at most ${MAX_PIXELS} pixels.`,
        { path, reason: error.message, limit: MAX_PIXELS },
        { cause: error },
      );
    });
  if (info.channels !== 3) {
    throw new InputError(
      "image-invalid",
      `${path}: decodes to ${info.channels} channels instead of 3. Convert the image to RGB.`,
      { path, found: info.channels, expected: 3 },
    );
  }
  return { width: info.width, height: info.height, pixels: new Uint8Array(data) };
}
