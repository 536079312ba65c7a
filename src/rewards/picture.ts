import sharp from "sharp";
import { InputError } from "../tensor/errors.js";
import { float32, type HostTensor } from "../tensor/host.js";
import { readFully, withFile } from "../weights/files.js";

const MOST_BYTES = 2 ** 28;
const MOST_PIXELS = 2 ** 26;

/** A picture file as rewards see pictures: [1, 3, h, w] in 0 … 1, transparency on white. */
export async function readPicture(path: string): Promise<HostTensor> {
  const bytes = await withFile(path, async (file, size) => {
    if (size > MOST_BYTES) throw new InputError(`${path}: has ${size} bytes; a picture has at most ${MOST_BYTES}.`);
    const content = Buffer.alloc(size);
    await readFully(file, content, 0, path);
    return content;
  });
  const { data, info } = await sharp(bytes, { limitInputPixels: MOST_PIXELS, failOn: "error" })
    .autoOrient()
    .toColourspace("srgb")
    .flatten({ background: "white" })
    .raw({ depth: "uchar" })
    .toBuffer({ resolveWithObject: true })
    .catch((error: Error) => {
      throw new InputError(`${path}: is not a picture that can be read (${error.message.split("\n")[0]}).`);
    });
  const plane = info.width * info.height;
  const pixels = new Float32Array(3 * plane);
  for (let i = 0; i < plane; i++) {
    for (let channel = 0; channel < 3; channel++) {
      // A picture in shades of gray has one channel.
      const at = i * info.channels + (info.channels < 3 ? 0 : channel);
      pixels[channel * plane + i] = (data[at] as number) / 255;
    }
  }
  return float32(pixels, [1, 3, info.height, info.width]);
}
