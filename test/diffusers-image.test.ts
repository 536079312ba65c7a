/** Generates the images that diffusers generated, from the same prompts and seeds (parity/noise.py). */
import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { generate } from "../src/pipeline/generate.js";
import { toNumbers } from "../src/tensor/host.js";
import { openGolden } from "./golden.js";
import { TINY_SD } from "./tiny.js";

interface DiffusersImage {
  readonly prompt: string;
  readonly negative: string;
  readonly seed: number;
  readonly eta: number;
  readonly height: number;
  readonly width: number;
}

const golden = await openGolden("noise");
const {
  pictures: images,
  steps,
  guidance,
} = JSON.parse(await readFile(`${golden.folder}/golden.json`, "utf8")) as {
  pictures: DiffusersImage[];
  steps: number;
  guidance: number;
};

describe('pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed))', () => {
  test.each(images.map((image, i) => [i, image] as const))("image %i: %o", async (i, request) => {
    const { prompt, negative, seed, eta, height, width } = request;
    const [image] = await generate({
      model: TINY_SD,
      device: "cpu",
      threads: 1,
      sampling: { steps, eta, guidance_scale: guidance, height, width },
      images: [{ prompt, seed }],
      negative,
    });
    const expected = toNumbers(golden.tensor(`picture.${i}`));
    expect([image?.width, image?.height, image?.pixels.length]).toEqual([width, height, expected.length]);
    const differences = Array.from(expected, (value, at) => Math.abs(value - (image?.pixels[at] as number)));
    expect(Math.max(...differences)).toBeLessThanOrEqual(2);
    // The image is not a plain color.
    expect(Math.max(...expected) - Math.min(...expected)).toBeGreaterThan(100);
  });
});
