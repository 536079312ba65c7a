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

  test("refuses an image of more than 4096 x 4096 pixels", async () => {
    const path = join(folder, "huge.png");
    await sharp({ create: { width: 4096, height: 4097, channels: 3, background: "#fff" } }).toFile(path);
    await expect(readImage(path)).rejects.toThrow(
      inputError("image-invalid", { path, limit: 4096 * 4096, reason: expect.stringContaining("pixel limit") }),
    );
  });
});
