/** A picture made in diffusers is made again here from its prompt and seed (parity/noise.py). */
import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { generate } from "../src/pipeline/generate.js";
import { toNumbers } from "../src/tensor/host.js";
import { openGolden } from "./golden.js";
import { TINY_SD } from "./tiny.js";

interface DiffusersPicture {
  readonly prompt: string;
  readonly negative: string;
  readonly seed: number;
  readonly eta: number;
  readonly height: number;
  readonly width: number;
}

const golden = await openGolden("noise");
const { pictures, steps, guidance } = JSON.parse(await readFile(`${golden.folder}/golden.json`, "utf8")) as {
  pictures: DiffusersPicture[];
  steps: number;
  guidance: number;
};

describe('pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed))', () => {
  test.each(pictures.map((picture, i) => [i, picture] as const))("picture %i: %o", async (i, picture) => {
    const { prompt, negative, seed, eta, height, width } = picture;
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
    // Neither is a plain colour that anything would match.
    expect(Math.max(...expected) - Math.min(...expected)).toBeGreaterThan(100);
  });
});
