import sharp from "sharp";
import { describe, expect, test } from "vitest";
import { contactSheet, encodePng, rgbBytes } from "./contact-sheet.js";

/** An image of one color, as interleaved bytes. */
function plain(rgb: readonly [number, number, number], width = 2, height = 2) {
  return { width, height, pixels: Uint8Array.from({ length: width * height * 3 }, (_, i) => rgb[i % 3] as number) };
}

async function decode(png: Buffer) {
  const { data, info } = await sharp(png).removeAlpha().raw().toBuffer({ resolveWithObject: true });
  return {
    ...info,
    at: (x: number, y: number) => [...data.subarray((y * info.width + x) * 3, (y * info.width + x) * 3 + 3)],
  };
}

describe("rgbBytes", () => {
  test("maps -1, 0 and 1 to 0, 128 and 255, clamps other values and interleaves the channels", () => {
    // The red, green and blue plane of a 2x1 image.
    const pixels = Float32Array.of(-1, 1, 0, -3, 3, 0.5);
    expect([...rgbBytes({ width: 2, height: 1, pixels })]).toEqual([0, 128, 255, 255, 0, 191]);
  });

  test("refuses values that do not fill the image", () => {
    expect(() => rgbBytes({ width: 2, height: 2, pixels: new Float32Array(4) })).toThrow(
      "4 values do not fill 3 x 2 x 2",
    );
  });
});

describe("encodePng", () => {
  test("keeps the colors and enlarges each pixel to a square", async () => {
    const png = await decode(
      await encodePng({ width: 2, height: 1, pixels: Uint8Array.of(9, 8, 7, 1, 2, 3) }, { scale: 3 }),
    );
    expect([png.width, png.height]).toEqual([6, 3]);
    expect(png.at(2, 2)).toEqual([9, 8, 7]);
    expect(png.at(3, 0)).toEqual([1, 2, 3]);
  });
});

describe("a contact sheet", () => {
  const red = plain([200, 0, 0]);
  const green = plain([0, 200, 0]);
  const blue = plain([0, 0, 200]);

  test("lays images out row by row with gaps", async () => {
    const sheet = await decode(await contactSheet([red, green, blue], { columns: 2, scale: 1, gap: 3 }));
    expect([sheet.width, sheet.height]).toEqual([3 + 2 * 5, 3 + 2 * 5]);
    expect(sheet.at(3, 3)).toEqual([200, 0, 0]);
    expect(sheet.at(9, 4)).toEqual([0, 200, 0]);
    expect(sheet.at(4, 9)).toEqual([0, 0, 200]);
    expect(sheet.at(9, 9)).toEqual([250, 250, 250]);
  });

  test("makes room for the longest label and escapes markup in it", async () => {
    const wide = plain([0, 0, 200], 44, 10);
    const options = { columns: 1, scale: 1, gap: 0 };
    const bare = await decode(await contactSheet([wide], options));
    const labelled = await decode(await contactSheet([{ ...wide, label: 'a <b> & \u0001 "c" goose' }], options));
    expect(bare.height).toBe(10);
    // Eight letters of 5.5 pixels fit into a line, so the lines are `a <b> &`, `"c"` and `goose`, or fewer.
    expect((labelled.height - 10) % 12).toBe(0);
    expect(labelled.height).toBeGreaterThan(10 + 12);
  });

  test("refuses images of different sizes, and an empty list", async () => {
    await expect(contactSheet([red, plain([0, 0, 0], 3, 2)])).rejects.toThrow("image 1 is 3x2, but image 0 is 2x2");
    await expect(contactSheet([])).rejects.toThrow("at least one image");
  });
});
