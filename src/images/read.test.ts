import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { readImage } from "./read.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "alignprop-images-"));
});
afterAll(() => rm(folder, { recursive: true }));

describe("readImage", () => {
  test("shows transparent pixels on white", async () => {
    const path = join(folder, "clear.png");
    const pixels = Uint8Array.of(10, 20, 30, 255, 10, 20, 30, 0);
    await sharp(pixels, { raw: { width: 2, height: 1, channels: 4 } }).toFile(path);
    expect(await readImage(path)).toEqual({ width: 2, height: 1, pixels: Uint8Array.of(10, 20, 30, 255, 255, 255) });
  });

  test("refuses a file that is not an image", async () => {
    const path = join(folder, "text.png");
    await writeFile(path, "not an image");
    await expect(readImage(path)).rejects.toThrow(
      inputError("image-invalid", { path, reason: expect.stringContaining("unsupported image format") }),
    );
  });

  test("shrinks a photograph of 24 megapixels, with a note, and turns it upright", async () => {
    const path = join(folder, "photo.jpg");
    // Orientation 6: the camera was turned, so the picture is 4000 wide and 6000 high.
    await sharp({ create: { width: 6000, height: 4000, channels: 3, background: "#804020" } })
      .withMetadata({ orientation: 6 })
      .jpeg()
      .toFile(path);
    const notes: string[] = [];
    const { width, height, pixels } = await readImage(path, { note: (message) => notes.push(message) });
    expect([width, height]).toEqual([3344, 5016]);
    expect(notes).toEqual([expect.stringMatching(/4000x6000 .* 3344x5016/)]);
    const middle = 3 * (2500 * width + 1600);
    for (const [channel, value] of [0x80, 0x40, 0x20].entries()) {
      expect(Math.abs((pixels[middle + channel] as number) - value)).toBeLessThanOrEqual(2);
    }
  });

  test("refuses an image of more pixels than any photograph", async () => {
    const path = join(folder, "huge.png");
    await sharp({
      create: { width: 16_384, height: 16_385, channels: 3, background: "#fff" },
      limitInputPixels: false,
    }).toFile(path);
    await expect(readImage(path)).rejects.toThrow(
      inputError("image-invalid", { path, limit: 2 ** 28, reason: expect.stringContaining("pixel limit") }),
    );
  });
});
