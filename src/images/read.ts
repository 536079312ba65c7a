/** Reads the user's image files, in any format that sharp reads. */
import { InputError } from "../errors/index.js";
import { readFully, withFile } from "../io/files.js";
import type { RgbImage } from "./rgb.js";
import { loadSharp } from "./sharp.js";

const MAX_BYTES = 2 ** 28;
/** Far above the size that diffusion models generate. Larger images, such as photographs, are shrunk to it. */
const MAX_PIXELS = 4096 * 4096;
/** Above any photograph. A file of a few bytes may decode to gigabytes. */
const MAX_DECODED_PIXELS = 2 ** 28;

export interface ReadImageOptions {
  /** Receives a message if the image had to be shrunk. */
  readonly note?: ((message: string) => void) | undefined;
}

/**
 * Reads the first frame of an image file, rotated upright by its EXIF orientation, in sRGB, on a white background. An image
 * of more than 16 megapixels is shrunk to that size while it is decoded.
 *
 * @throws InputError `file-too-large` or `image-invalid`, or as `withFile` does.
 */
export async function readImage(path: string, { note = () => {} }: ReadImageOptions = {}): Promise<RgbImage> {
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
  const opened = sharp(bytes, { limitInputPixels: MAX_DECODED_PIXELS, failOn: "error" }).autoOrient();
  const unreadable = (error: Error): never => {
    throw new InputError(
      "image-invalid",
      `${path}: cannot be read as an image: ${error.message}. Give a complete image of at most ${MAX_DECODED_PIXELS} pixels.`,
      { path, reason: error.message, limit: MAX_DECODED_PIXELS },
      { cause: error },
    );
  };
  const { autoOrient: whole } = await opened.metadata().catch(unreadable);
  const factor = Math.sqrt(MAX_PIXELS / (whole.width * whole.height));
  const smaller = factor < 1 ? opened.resize({ width: Math.max(1, Math.floor(whole.width * factor)) }) : opened;
  const { data, info } = await smaller
    .toColourspace("srgb")
    .flatten({ background: "#fff" })
    .removeAlpha()
    .raw({ depth: "uchar" })
    .toBuffer({ resolveWithObject: true })
    .catch(unreadable);
  if (factor < 1) {
    note(
      `${path} has ${whole.width}x${whole.height} pixels and is shrunk to ${info.width}x${info.height}, because an image has at ` +
        `most ${MAX_PIXELS} pixels here`,
    );
  }
  if (info.channels !== 3) {
    throw new InputError(
      "image-invalid",
      `${path}: decodes to ${info.channels} channels instead of 3. Convert the image to RGB.`,
      { path, found: info.channels, expected: 3 },
    );
  }
  return { width: info.width, height: info.height, pixels: new Uint8Array(data) };
}
