import sharp from "sharp";
import { describe, expect, test } from "vitest";
import { gradients } from "../../autodiff/index.js";
import { interpret } from "../../graph/interpret.js";
import { constant, input } from "../../ops/index.js";
import { Rng } from "../../tensor/rng.js";
import { type JpegOptions, jpegKilobytes, quantization } from "./jpeg.js";

/** Pixels 0 … 255 in rows of RGB. */
interface Image {
  readonly data: Buffer;
  readonly size: number;
}

async function drawing(svg: string, size: number): Promise<Image> {
  const whole = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" width="${size}" height="${size}"><rect width="64" height="64" fill="#8cf"/>${svg}</svg>`;
  return { data: await sharp(Buffer.from(whole)).removeAlpha().raw().toBuffer(), size };
}

async function noise(blur: number): Promise<Image> {
  const rng = new Rng(3);
  const size = 64;
  const raw = { width: size, height: size, channels: 3 as const };
  const image = sharp(Buffer.from(Array.from({ length: size * size * 3 }, () => rng.integer(0, 255))), { raw });
  return { data: await image.blur(blur).raw().toBuffer(), size };
}

/** [1, 3, h, w] in 0 … 1 */
function planes({ data, size }: Image): Float64Array {
  const out = new Float64Array(3 * size * size);
  for (let i = 0; i < data.length; i++) out[(i % 3) * size * size + Math.floor(i / 3)] = (data[i] as number) / 255;
  return out;
}

function estimate(image: Image, options: JpegOptions): number {
  const shape = [1, 3, image.size, image.size];
  const images = input(shape);
  const graph = { name: "jpeg", inputs: { images }, outputs: { kilobytes: jpegKilobytes(images, options) } };
  return interpret(graph, { images: { shape, data: planes(image) } }).kilobytes?.data[0] as number;
}

/** Kilobytes that libjpeg writes after the last header. */
async function encodedKilobytes({ data, size }: Image, { quality = 95, subsampling = "4:2:0" }: JpegOptions) {
  const jpeg = await sharp(data, { raw: { width: size, height: size, channels: 3 } })
    .jpeg({ quality, chromaSubsampling: subsampling, optimiseCoding: true })
    .toBuffer();
  let at = 2;
  while (jpeg.readUInt16BE(at) !== 0xffda) at += 2 + jpeg.readUInt16BE(at + 2);
  at += 2 + jpeg.readUInt16BE(at + 2);
  return (jpeg.length - at - 2) / 1000;
}

describe("the JPEG size estimate", () => {
  for (const quality of [50, 95]) {
    for (const subsampling of ["4:2:0", "4:4:4"] as const) {
      test(`is within 15 % of libjpeg's output at quality ${quality} and ${subsampling}`, async () => {
        const face = `<circle cx="32" cy="34" r="22" fill="#c84"/><circle cx="24" cy="28" r="4"/><circle cx="40" cy="28" r="4"/>
          <path d="M20 42 Q32 54 44 42" stroke="#400" stroke-width="3" fill="none"/><path d="M12 20 L18 6 L26 16 Z" fill="#642"/>`;
        const stripes = Array.from(
          { length: 8 },
          (_, i) => `<path d="M${i * 9} 4 L${i * 6 + 8} 60" stroke="#222" stroke-width="4"/>`,
        );
        const images = [await drawing(face, 64), await drawing(stripes.join(""), 64), await noise(0.6), await noise(2)];
        for (const image of images) {
          const actual = await encodedKilobytes(image, { quality, subsampling });
          expect(estimate(image, { quality, subsampling }) / actual).toBeGreaterThan(0.85);
          expect(estimate(image, { quality, subsampling }) / actual).toBeLessThan(1.15);
        }
      });
    }
  }

  test("is 0 for an image of the gray level that JPEG codes as 0", () => {
    const gray = { data: Buffer.alloc(16 * 16 * 3, 128), size: 16 };
    expect(estimate(gray, {})).toBeCloseTo(0, 6);
  });

  test("repeats the edge of an image whose size is not a multiple of a block, as the encoder does", () => {
    // A gray ramp of 24x24 and the same ramp with its edge repeated to 32x32 are equal to the codec.
    const ramp = (size: number) => {
      const data = Buffer.alloc(size * size * 3);
      for (let i = 0; i < size * size; i++) data.fill(8 * Math.min(i % size, 23), 3 * i, 3 * i + 3);
      return { data, size };
    };
    expect(estimate(ramp(24), {})).toBeCloseTo(estimate(ramp(32), {}), 9);
  });

  test("has the gradient of finite differences", () => {
    const shape = [1, 3, 16, 16];
    const rng = new Rng(5);
    const pixels = Float64Array.from({ length: 768 }, () => rng.uniform());
    const images = input(shape);
    const kilobytes = jpegKilobytes(images);
    const [dImages] = gradients([{ value: kilobytes, gradient: constant([1], [1]) }], [images]);
    if (!dImages) throw new Error("no gradient");
    const graph = { name: "jpeg", inputs: { images }, outputs: { kilobytes, dImages } };
    const run = (data: Float64Array) => interpret(graph, { images: { shape, data } });
    const gradient = run(pixels).dImages?.data as Float64Array;
    for (const index of [0, 100, 300, 767]) {
      const shifted = (h: number) => run(pixels.map((p, i) => (i === index ? p + h : p))).kilobytes?.data[0] as number;
      const numeric = (shifted(1e-6) - shifted(-1e-6)) / 2e-6;
      expect(Math.abs((gradient[index] as number) - numeric)).toBeLessThan(1e-4 * Math.abs(numeric) + 1e-7);
    }
  });
});

describe("quantization", () => {
  test("follows libjpeg: half the table at quality 75, all ones at 100, at most 255", () => {
    expect(quantization([16, 99], 75)).toEqual([8, 50]);
    expect(quantization([16, 99], 100)).toEqual([1, 1]);
    expect(quantization([16, 99], 1)).toEqual([255, 255]);
  });
});
