import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { openGolden } from "../../test/golden.js";
import { toNumbers } from "./host.js";
import { TorchGenerator } from "./torch-generator.js";

const golden = await openGolden("noise");
const { sizes, seeds, long } = JSON.parse(await readFile(`${golden.folder}/golden.json`, "utf8")) as {
  sizes: number[];
  seeds: number[];
  long: number;
};

/**
 * Two or three units in the last place of a float32 near 1. PyTorch computes the logarithm and cosine with vector
 * instructions, which round differently.
 */
const TOLERANCE = 5e-7;

function largestDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(actual.length).toBe(expected.length);
  return Math.max(...Array.from(expected, (value, i) => Math.abs(value - (actual[i] as number))));
}

describe("TorchGenerator", () => {
  test("gives the 32-bit integers of MT19937", () => {
    // The first and the 10,000th output for the seed 5489, from the C++ standard (std::mt19937, 26.6.6 of ISO 14882).
    const generator = new TorchGenerator(5489);
    const first = generator.uint32();
    for (let i = 1; i < 9999; i++) generator.uint32();
    expect([first, generator.uint32()]).toEqual([3499211612, 4123659995]);
  });

  test.each(seeds)("draws the noise of torch.randn from seed %i, for small and large tensors in turn", (seed) => {
    const generator = new TorchGenerator(seed);
    const drawn = sizes.flatMap((size) => [...generator.randn(size)]);
    expect(largestDifference(drawn, toNumbers(golden.tensor(`randn.${seed}`)))).toBeLessThan(TOLERANCE);
  });

  test("draws more numbers than its state of 624 words holds", () => {
    const drawn = new TorchGenerator(7).randn(long);
    const ends = [...drawn.subarray(0, 32), ...drawn.subarray(-32)];
    expect(largestDifference(ends, toNumbers(golden.tensor("long")))).toBeLessThan(TOLERANCE);
  });

  test("draws fewer than 16 elements exactly", () => {
    const expected = toNumbers(golden.tensor("randn.42"));
    const generator = new TorchGenerator(42);
    const small = sizes.slice(0, 4).flatMap((size) => [...generator.randn(size)]);
    expect(small).toEqual([...expected.subarray(0, small.length)]);
  });
});
